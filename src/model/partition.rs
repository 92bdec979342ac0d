//! Which part of a library an instance has, when several share it.

use std::fmt;
use std::str::FromStr;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::LibraryPath;

/// The most instances that may share a library.
const MOST: u16 = 1000;

/// The part of a library that one of several instances has.
///
/// Each directory in the root belongs to one instance, with everything in it. It is the instance whose number, as the
/// seed of XXH3 with 64 bits over the directory's name, gives the greatest hash; of equal hashes, the least number
/// counts. This is rendezvous hashing: one more instance takes its share from all others, and no other directory
/// changes hands. Files in the root itself belong to the first instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    index: u16,
    count: u16,
}

/// The whole library, for one instance.
impl Default for Partition {
    fn default() -> Self {
        Self { index: 1, count: 1 }
    }
}

/// Why a text is not a partition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a part of a library; give one such as 1/3 for the first of three, of at most {MOST}")]
pub struct PartitionError(String);

impl FromStr for Partition {
    type Err = PartitionError;

    fn from_str(text: &str) -> Result<Self, PartitionError> {
        let number = |text: &str| {
            let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u16>().ok().filter(|_| is_plain)
        };
        let wrong = || PartitionError(text.to_owned());
        let (index, count) = text.split_once('/').ok_or_else(wrong)?;
        match (number(index), number(count)) {
            (Some(index), Some(count)) if (1..=count).contains(&index) && count <= MOST => Ok(Self { index, count }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.index, self.count)
    }
}

impl Partition {
    /// Whether this is the whole library.
    pub fn is_whole(self) -> bool {
        self.count == 1
    }

    /// The number of the instance, from 1.
    pub fn index(self) -> u16 {
        self.index
    }

    /// Whether an entry of the root belongs to this part: a directory of this name with everything in it, or a file.
    pub fn has(self, name: &[u8], is_directory: bool) -> bool {
        if !is_directory || self.is_whole() {
            return self.index == 1;
        }
        let hash = |index: u16| xxh3_64_with_seed(name, index.into());
        let own = hash(self.index);
        (1..self.index).all(|other| hash(other) < own) && (self.index + 1..=self.count).all(|other| hash(other) <= own)
    }

    /// Whether a file belongs to this part.
    pub fn has_file(self, path: &LibraryPath) -> bool {
        let mut names = path.names();
        let first = names.next().unwrap_or_default();
        self.has(first, names.next().is_some())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owners(name: &[u8], count: u16) -> Vec<u16> {
        (1..=count).filter(|&index| Partition { index, count }.has(name, true)).collect()
    }

    proptest! {
        /// Each directory has one owner, and one more instance takes directories only for itself.
        #[test]
        fn each_directory_has_one_owner_which_changes_only_to_the_new_instance(
            name in prop::collection::vec(any::<u8>(), 1..20),
            count in 1_u16..20,
        ) {
            let (before, after) = (owners(&name, count), owners(&name, count + 1));
            prop_assert_eq!((before.len(), after.len()), (1, 1));
            prop_assert!(after == before || after == [count + 1]);
        }
    }

    #[test]
    fn the_shares_are_about_equal() {
        let mut shares = [0; 5];
        for number in 0..5000 {
            shares[usize::from(owners(format!("Artist {number}").as_bytes(), 5)[0] - 1)] += 1;
        }
        assert!(shares.iter().all(|share| (900..1100).contains(share)), "{shares:?}");
    }

    #[test]
    fn the_owners_are_part_of_the_interface() {
        // By another implementation: xxhash.xxh3_64_intdigest(name, seed=number) in Python.
        let found = ["AC", "Björk", "Various Artists", "a", "Z"].map(|name| owners(name.as_bytes(), 3)[0]);
        assert_eq!(found, [3, 2, 1, 1, 1]);
    }

    #[test]
    fn files_in_the_root_belong_to_the_first() {
        let part = |text: &str| text.parse::<Partition>().unwrap();
        assert!(part("1/3").has_file(&"x.mp3".into()) && !part("2/3").has_file(&"x.mp3".into()));
        let parts = ["1/3", "2/3", "3/3"].map(|text| part(text).has_file(&"a/b/x.mp3".into()));
        assert_eq!(parts.iter().filter(|is_here| **is_here).count(), 1);
    }

    #[test]
    fn a_partition_is_written_as_it_is_read() {
        assert_eq!("2/3".parse::<Partition>().unwrap().to_string(), "2/3");
        assert_eq!("1/1".parse::<Partition>().unwrap(), Partition::default());
        for wrong in ["", "1", "0/3", "4/3", "1/0", "+1/3", "1/3/3", "1 / 3", "1/1001", "a/b", "-1/2"] {
            assert!(wrong.parse::<Partition>().is_err(), "{wrong}");
        }
    }
}
