//! The list of held deletes, as `file-watcher held` prints it.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::model::{HeldDeletes, HeldReason, printable};

/// All held deletes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldList {
    /// The held deletes, by reason and place.
    pub held: Vec<HeldLine>,
    /// The number of all held deletes.
    pub total: u64,
}

/// The deletes that are held for one reason at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLine {
    /// `mount_gone`, `root_empty` or `too_many`.
    pub reason: String,
    /// The absolute path; absent for the sum of all places beyond a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// The type of the unmounted filesystem, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_type: Option<String>,
    /// The source of its mount, if it is known: a device, a server, or other text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_source: Option<String>,
    /// The number of deletes.
    pub count: u64,
    /// Since when the first of them is held, in RFC 3339.
    pub since: String,
}

impl HeldList {
    /// The place of a line without one.
    pub const ELSEWHERE: &str = "elsewhere";

    /// What is said before the list of what is held at one path.
    pub const AT_PATH: &str = "the places that may have held deletes at or under the path, with all of theirs:";

    /// The list of the held deletes of the library at `root`.
    pub fn new(held: &[HeldDeletes], root: &Path) -> Self {
        let line = |held: &HeldDeletes| HeldLine {
            reason: held.reason.as_str().to_owned(),
            place: held.place.as_ref().map(|place| place.to_absolute(root).to_string_lossy().into_owned()),
            mount_type: held.mount.as_ref().map(|(kind, _)| kind.clone()),
            mount_source: held.mount.as_ref().map(|(_, source)| source.clone()),
            count: held.count,
            since: jiff::Timestamp::from_second(held.since).unwrap_or_default().to_string(),
        };
        Self { held: held.iter().map(line).collect(), total: held.iter().map(|held| held.count).sum() }
    }

    /// The list as one line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers are always JSON")
    }
}

impl fmt::Display for HeldList {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.held.is_empty() {
            return write!(formatter, "no delete is held");
        }
        let deletes = if self.total == 1 { "delete is" } else { "deletes are" };
        write!(formatter, "{} {deletes} held", self.total)?;
        let mut reason = "";
        for line in &self.held {
            if line.reason != reason {
                reason = &line.reason;
                let known = HeldReason::ALL.into_iter().find(|known| known.as_str() == reason);
                write!(formatter, "\n\n{}:", known.map_or(reason, |known| known.description()))?;
            }
            let place = printable(line.place.as_deref().unwrap_or(Self::ELSEWHERE));
            write!(formatter, "\n{:>9}  {place}", line.count)?;
            if let (Some(kind), Some(source)) = (&line.mount_type, &line.mount_source) {
                write!(formatter, " ({kind}, {source})")?;
            }
            write!(formatter, ", since {}", line.since)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_grouped_by_reason_and_can_be_sent_as_json() {
        let held = |reason, place: Option<&str>, mount: Option<(&str, &str)>, count| HeldDeletes {
            reason,
            place: place.map(Into::into),
            mount: mount.map(|(kind, source)| (kind.to_owned(), source.to_owned())),
            count,
            since: 1_700_000_000,
        };
        let list = HeldList::new(
            &[
                held(HeldReason::MountGone, Some("usb"), Some(("ext4", "/dev/sdb1")), 1200),
                held(HeldReason::TooMany, Some("Jazz"), None, 7),
                held(HeldReason::TooMany, None, None, 3),
            ],
            Path::new("/music"),
        );
        insta::assert_snapshot!(list, @r"
        1210 deletes are held

        the filesystem that the files were on is not mounted:
             1200  /music/usb (ext4, /dev/sdb1), since 2023-11-14T22:13:20Z

        more files are missing than MASS_DELETE_PERCENT allows:
                7  /music/Jazz, since 2023-11-14T22:13:20Z
                3  elsewhere, since 2023-11-14T22:13:20Z
        ");
        assert_eq!(serde_json::from_str::<HeldList>(&list.to_json()).unwrap(), list);
        assert_eq!(HeldList::default().to_string(), "no delete is held");
    }
}
