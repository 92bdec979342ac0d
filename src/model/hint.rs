//! A hint to look at a path: never a fact about it.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use super::{FileStat, LibraryPath, Ties};

/// "Look at this path."
///
/// What is published comes from comparing the disk with the index. A hint that comes twice, late or out of order costs
/// time and nothing else.
#[derive(Clone, Debug)]
pub struct FsEvent {
    /// Where to look.
    pub path: LibraryPath,
    /// Why the path may have changed.
    pub cause: Cause,
    /// Who asked for the look. The message says so.
    pub origin: Origin,
    /// What is known of the change.
    pub evidence: Evidence,
    /// What earlier looks found.
    pub retry: RetryState,
    /// What limits the use of the look, and who waits for it.
    pub guards: Guards,
}

/// What the kernel said of a change.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The file was closed after writing: it is read even if its times did not change, as after writes through a memory
    /// map.
    pub written: bool,
    /// The file was renamed, and it may have been written before that. Then an equal size and modification time prove
    /// nothing.
    pub doubtful: bool,
    /// When the first event came that this hint follows from.
    pub first_event: Option<Instant>,
    /// When the event came that completed the file: its close after writing, or its rename.
    pub complete_at: Option<SystemTime>,
    /// The old path, as paired by inotify.
    pub renamed_from: Option<LibraryPath>,
}

/// What earlier looks at the path found.
#[derive(Clone, Debug, Default)]
pub struct RetryState {
    /// How many looks had no result.
    pub attempt: u32,
    /// The file as the last look saw it, if that found it changing.
    pub last_seen: Option<Box<Sighting>>,
    /// Whether the first of them followed a rename.
    pub is_renamed: bool,
}

/// A state of a file, and since when it was seen so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The state.
    pub stat: FileStat,
    /// When a look first saw it.
    pub since: Instant,
}

/// What limits the use of a look, and who waits for it.
#[derive(Clone, Debug, Default)]
pub struct Guards {
    /// Root generation. A stale one proves no deletion.
    pub generation: Option<u64>,
    /// The index has a row of this path: it is looked at even if the rules exclude it.
    pub is_indexed: bool,
    /// An operator approved the delete. It is published even if the mount of the file is gone.
    pub approved: bool,
    /// Other looks that have to be decided together with this one.
    pub ties: Ties,
    /// The walks that wait for this look.
    pub walks: Vec<Token>,
    /// Tokens that are kept until a look has a final result, however many looks that takes.
    pub holds: Vec<Token>,
}

impl FsEvent {
    /// A plain look at `path`.
    #[must_use]
    pub fn new(path: LibraryPath, cause: Cause, origin: Origin) -> Self {
        let (evidence, retry, guards) = (Evidence::default(), RetryState::default(), Guards::default());
        Self { path, cause, origin, evidence, retry, guards }
    }

    /// This hint with another cause.
    #[must_use]
    pub fn because(self, cause: Cause) -> Self {
        Self { cause, ..self }
    }

    /// This hint, tied to others.
    #[must_use]
    pub fn tied(mut self, ties: Ties) -> Self {
        self.guards.ties = ties;
        self
    }

    /// This hint about the root of this generation.
    #[must_use]
    pub fn about_root(mut self, generation: u64) -> Self {
        self.guards.generation = Some(generation);
        self
    }

    /// This hint, which keeps `token` alive until it is done.
    #[must_use]
    pub fn holding(mut self, token: Token) -> Self {
        self.guards.holds.push(token);
        self
    }

    /// This hint, for a path with a row in the index.
    #[must_use]
    pub fn indexed(mut self) -> Self {
        self.guards.is_indexed = true;
        self
    }

    /// This hint, for a file that has to be read whatever its times are.
    #[must_use]
    pub fn written(mut self) -> Self {
        self.evidence.written = true;
        self
    }

    /// This hint, newer than `older` for the same path, with what `older` knew.
    ///
    /// The newer one says how long to wait, with two exceptions. A change of attributes or the finding of a walk does not
    /// turn a file that was closed or renamed into an unfinished one. A repeated look puts off nothing: `older` is
    /// about something that happened since. A rename is accepted without hashing only if it is all that is known of the
    /// path.
    #[must_use]
    pub fn merged_over(mut self, older: Self) -> Self {
        let adds_nothing = matches!(self.cause, Cause::Touched | Cause::Found);
        if adds_nothing && matches!(older.cause, Cause::Closed | Cause::Renamed) {
            self.cause = older.cause;
            self.evidence.renamed_from = None;
        }
        self.cause = match (self.cause, older.cause) {
            (Cause::Again(one), Cause::Again(other)) => Cause::Again(one.min(other)),
            (newest, waiting) => {
                let is_repeated =
                    matches!(newest, Cause::Again(_)) || (newest == Cause::Gone && self.retry.attempt > 0);
                if is_repeated { waiting } else { newest }
            }
        };
        self.evidence.written |= older.evidence.written;
        self.evidence.doubtful |= older.evidence.doubtful;
        self.evidence.first_event = older.evidence.first_event.or(self.evidence.first_event);
        self.evidence.complete_at = self.evidence.complete_at.or(older.evidence.complete_at);
        self.retry.last_seen = self.retry.last_seen.or(older.retry.last_seen);
        self.retry.attempt = self.retry.attempt.max(older.retry.attempt);
        self.retry.is_renamed |= older.retry.is_renamed;
        self.guards.append(older.guards);
        self
    }
}

impl Guards {
    /// Adds the guards of another hint or look for the same path. The generation stays.
    pub fn append(&mut self, mut other: Self) {
        self.is_indexed |= other.is_indexed;
        self.approved |= other.approved;
        self.ties.append(&mut other.ties);
        self.walks.append(&mut other.walks);
        self.holds.append(&mut other.holds);
    }
}

/// Why a path may have changed. It decides how long the path must be quiet before a look can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The walk found a difference: look now, and wait only if the file is young.
    Found,
    /// It was renamed into place, and so is complete.
    Renamed,
    /// It was closed after writing.
    Closed,
    /// It was created, and may still be written.
    Created,
    /// Its attributes changed.
    Touched,
    /// It was removed or renamed.
    Gone,
    /// An earlier look found it changing or failed: look again after this long.
    Again(Duration),
}

/// Who asked for a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// An event of the kernel.
    Watch,
    /// A walk found a difference.
    Scan,
    /// An operator requested a replay.
    Replay,
}

impl Origin {
    /// All origins.
    pub const ALL: [Self; 3] = [Self::Watch, Self::Scan, Self::Replay];

    /// The word that messages use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Watch => "watch",
            Self::Scan => "scan",
            Self::Replay => "replay",
        }
    }

    /// The origin of a word of [`Origin::as_str`], or `None` for another word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|origin| origin.as_str() == word)
    }
}

/// A reference count without access to the value.
///
/// Each hint that is waited for keeps a clone. The waiter checks through [`Token::downgrade`] or [`Token::is_last`]
/// whether clones are left.
#[derive(Clone)]
pub struct Token(Arc<dyn Any + Send + Sync>);

/// A weak reference to a [`Token`].
#[derive(Clone)]
pub struct WeakToken(Weak<dyn Any + Send + Sync>);

impl Token {
    /// A token that drops `held` together with its last clone.
    #[must_use]
    pub fn new(held: impl Any + Send + Sync) -> Self {
        Self(Arc::new(held))
    }

    /// Whether this is the only clone.
    #[must_use]
    pub fn is_last(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// A weak reference to this token.
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

    /// A new clone, if one is left.
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

    fn hint(cause: Cause) -> FsEvent {
        FsEvent::new("a.mp3".into(), cause, Origin::Watch)
    }

    #[test]
    fn a_look_that_asks_for_another_one_puts_off_nothing_that_waits_already() {
        let again = |seconds| Cause::Again(Duration::from_secs(seconds));
        for cause in [Cause::Found, Cause::Renamed, Cause::Closed, Cause::Created, Cause::Touched, Cause::Gone] {
            assert_eq!(hint(again(60)).merged_over(hint(cause)).cause, cause);
        }
        assert_eq!(hint(again(60)).merged_over(hint(again(2))).cause, again(2));
        assert_eq!(hint(again(2)).merged_over(hint(again(60))).cause, again(2));
        let gone = || hint(Cause::Gone);
        assert_eq!(gone().merged_over(hint(Cause::Renamed)).cause, Cause::Gone);
        let mut repeated = gone();
        repeated.retry.attempt = 1;
        assert_eq!(repeated.merged_over(hint(Cause::Renamed)).cause, Cause::Renamed);
    }
}
