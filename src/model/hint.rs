//! A hint to look at a path: never a fact about it.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use super::{FileStat, LibraryPath, Ties};

/// "Look at this path." What is published comes from comparing the disk with the index, so a hint
/// that comes twice, late or out of order costs time and nothing else.
#[derive(Clone, Debug)]
pub struct FsEvent {
    /// Where to look.
    pub path: LibraryPath,
    /// How long the path must have been left alone before the look.
    pub quiet: Quiet,
    /// Who asked for the look; the message says so.
    pub origin: Origin,
    /// Somebody closed the file after writing: read it even if its times did not change, as they
    /// may not after writes through a memory map.
    pub written: bool,
    /// When we heard that the file is complete: closed after writing, or renamed into place.
    pub complete_at: Option<SystemTime>,
    /// The kernel said that this name was that one until now.
    pub renamed_from: Option<LibraryPath>,
    /// What ties it to other looks that have to be decided with it.
    pub ties: Ties,
    /// The index has a row of this path: it is looked at even if the rules leave the path out.
    pub is_indexed: bool,
    /// Which of the directories that were the root one after the other this speaks of: what is not in
    /// another one is not gone.
    pub generation: Option<u64>,
    /// A person approved of the delete, so it is published even if the mount of the file is gone.
    pub approved: bool,
    /// What the last look saw, when it found the file still changing.
    pub last_seen: Option<FileStat>,
    /// When that was first seen.
    pub seen_at: Option<Instant>,
    /// How many looks were thrown away before this one.
    pub attempt: u32,
    /// The walks that wait for this look.
    pub walks: Vec<Token>,
    /// What must stay alive until the path was looked at to the end, however many looks that takes.
    pub holds: Vec<Token>,
}

impl FsEvent {
    /// A plain look at `path`.
    pub fn new(path: LibraryPath, quiet: Quiet, origin: Origin) -> Self {
        Self {
            path,
            quiet,
            origin,
            written: false,
            complete_at: None,
            renamed_from: None,
            ties: Ties::default(),
            is_indexed: false,
            generation: None,
            approved: false,
            last_seen: None,
            seen_at: None,
            attempt: 0,
            walks: Vec::new(),
            holds: Vec::new(),
        }
    }

    /// This hint, newer than `older` for the same path, knowing what `older` knew.
    ///
    /// The newest says how long to wait, but neither a change of attributes nor a walk that comes by
    /// turns a file that was closed or renamed into an unfinished one, and a look that asks for another one
    /// puts off nothing: `older` is of something that happened since. A rename is trusted only while nothing
    /// else is said of the path.
    #[must_use]
    pub fn merged_over(mut self, mut older: Self) -> Self {
        let adds_nothing = matches!(self.quiet, Quiet::Touched | Quiet::Found);
        if adds_nothing && matches!(older.quiet, Quiet::Closed | Quiet::Renamed) {
            self.quiet = older.quiet;
            self.renamed_from = None;
        }
        self.quiet = match (self.quiet, older.quiet) {
            (Quiet::Again(one), Quiet::Again(other)) => Quiet::Again(one.min(other)),
            (newest, waiting) => {
                let is_repeated = matches!(newest, Quiet::Again(_)) || (newest == Quiet::Gone && self.attempt > 0);
                if is_repeated { waiting } else { newest }
            }
        };
        self.written |= older.written;
        self.is_indexed |= older.is_indexed;
        self.approved |= older.approved;
        self.complete_at = self.complete_at.or(older.complete_at);
        if self.last_seen.is_none() {
            (self.last_seen, self.seen_at) = (older.last_seen, older.seen_at);
        }
        self.attempt = self.attempt.max(older.attempt);
        self.ties.append(&mut older.ties);
        self.walks.append(&mut older.walks);
        self.holds.append(&mut older.holds);
        self
    }
}

/// Why a path may have changed, which says how long it must be quiet before a look can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quiet {
    /// The walk found a difference: look now, and wait only if the file is young.
    Found,
    /// It was renamed into place, and so is complete.
    Renamed,
    /// It was closed after writing.
    Closed,
    /// It was made, and whoever made it may still be writing.
    Created,
    /// Its attributes changed.
    Touched,
    /// Its name went away, perhaps to come back elsewhere.
    Gone,
    /// An earlier look found it changing or failed: look again after this long.
    Again(Duration),
}

/// Who asked for a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The kernel told us.
    Watch,
    /// A walk found a difference.
    Scan,
    /// Somebody asked to hear of it again.
    Replay,
}

impl Origin {
    /// The word that messages use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Watch => "watch",
            Self::Scan => "scan",
            Self::Replay => "replay",
        }
    }

    /// The origin of a word that [`Origin::as_str`] gave.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Watch, Self::Scan, Self::Replay].into_iter().find(|origin| origin.as_str() == word)
    }
}

/// A count that ends when the last clone is dropped.
///
/// Whoever waits for hints gives each of them a clone, or watches the token from the outside by [`Token::downgrade`].
#[derive(Clone)]
pub struct Token(Arc<dyn Any + Send + Sync>);

/// A token that does not count.
#[derive(Clone)]
pub struct WeakToken(Weak<dyn Any + Send + Sync>);

impl Token {
    /// A token that keeps `held` alive.
    pub fn new(held: impl Any + Send + Sync) -> Self {
        Self(Arc::new(held))
    }

    /// Whether no other clone is left.
    #[must_use]
    pub fn is_last(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// The same token, without counting.
    #[must_use]
    pub fn downgrade(&self) -> WeakToken {
        WeakToken(Arc::downgrade(&self.0))
    }
}

impl WeakToken {
    /// Whether a clone of the token is left.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// One clone more, if one is left.
    #[must_use]
    pub fn upgrade(&self) -> Option<Token> {
        self.0.upgrade().map(Token)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token")
    }
}

impl fmt::Debug for WeakToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("WeakToken").field("is_alive", &self.is_alive()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(quiet: Quiet) -> FsEvent {
        FsEvent::new("a.mp3".into(), quiet, Origin::Watch)
    }

    #[test]
    fn a_look_that_asks_for_another_one_puts_off_nothing_that_waits_already() {
        let again = |seconds| Quiet::Again(Duration::from_secs(seconds));
        for quiet in [Quiet::Found, Quiet::Renamed, Quiet::Closed, Quiet::Created, Quiet::Touched, Quiet::Gone] {
            assert_eq!(hint(again(60)).merged_over(hint(quiet)).quiet, quiet);
        }
        assert_eq!(hint(again(60)).merged_over(hint(again(2))).quiet, again(2));
        assert_eq!(hint(again(2)).merged_over(hint(again(60))).quiet, again(2));
        let gone = || hint(Quiet::Gone);
        assert_eq!(gone().merged_over(hint(Quiet::Renamed)).quiet, Quiet::Gone);
        assert_eq!(FsEvent { attempt: 1, ..gone() }.merged_over(hint(Quiet::Renamed)).quiet, Quiet::Renamed);
    }
}
