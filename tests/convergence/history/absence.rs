//! Filesystems that are unmounted and mounted again, and what must not be published about them meanwhile.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::History;
use crate::support::oracle::Message;

/// How long the program may take to publish what other patterns leave out.
const RULES_LAST: Duration = Duration::from_secs(10);

/// The times at which a filesystem was not there.
#[derive(Default)]
pub(super) struct Absences {
    all: Vec<Absence>,
    /// It is away now, for so many more operations.
    operations: Option<usize>,
    rules_changed: Option<Instant>,
}

struct Absence {
    from: Timestamp,
    until: Option<Timestamp>,
    /// What was there when it was taken out, of the library.
    kept: BTreeSet<PathBuf>,
}

impl Absences {
    pub(super) fn count(&self) -> u64 {
        self.all.len() as u64
    }

    /// Other patterns may leave out what is away: from now on it may be published as deleted.
    pub(super) fn rules_change(&mut self) {
        self.rules_changed = Some(Instant::now());
        if self.operations.is_some()
            && let Some(absence) = self.all.last_mut()
        {
            absence.kept.clear();
        }
    }

    fn begin(&mut self, operations: usize, mut kept: BTreeSet<PathBuf>) {
        if self.rules_changed.is_some_and(|changed| changed.elapsed() < RULES_LAST) {
            kept.clear();
        }
        self.operations = Some(operations);
        self.all.push(Absence { from: Timestamp::now(), until: None, kept });
    }

    fn end(&mut self) {
        self.operations = None;
        if let Some(absence) = self.all.last_mut() {
            absence.until = Some(Timestamp::now());
        }
    }

    /// Whether nothing that was away was published as deleted or moved meanwhile.
    pub(super) fn check(&self, messages: &[Message]) -> Result<(), String> {
        for message in messages {
            let gone = match &message.old_path {
                Some(old_path) => old_path,
                None if message.event_type == "deleted" => &message.path,
                None => continue,
            };
            let at: Timestamp = message.timestamp.parse().map_err(|error| format!("{error}: {message:?}"))?;
            let is_wrong = |absence: &Absence| {
                absence.from < at && absence.until.is_none_or(|until| at < until) && absence.kept.contains(gone)
            };
            if self.all.iter().any(is_wrong) {
                return Err(format!("it was only away: {message:?}"));
            }
        }
        Ok(())
    }
}

impl History {
    /// Stops the program, unless it is down, and mounts the filesystem again.
    pub(super) fn remount(&mut self, kill: bool) -> Result<(), String> {
        if !self.mounted.can_go() {
            return Ok(());
        }
        if kill {
            self.program.kill();
        } else {
            self.program.terminate()?;
        }
        self.remounts += 1;
        self.take_away(0)?;
        self.put_back();
        Ok(())
    }

    /// Takes the filesystem out, for so many operations, whatever the program is doing.
    pub(super) fn take_away(&mut self, operations: usize) -> Result<(), String> {
        if !self.mounted.can_go() || self.absences.operations.is_some() {
            return Ok(());
        }
        while self.tree.is_writing_slowly() {
            self.pass(Duration::from_millis(5));
        }
        // A frozen program closes no files.
        self.frozen_until = None;
        self.program.thaw();
        let kept = self.tree.take_away(&self.mounted.place);
        self.mounted.detach()?;
        self.absences.begin(operations, kept);
        self.tree.note("taken out");
        Ok(())
    }

    /// Puts the filesystem back, if it is away.
    pub(super) fn put_back(&mut self) {
        if self.absences.operations.is_some() {
            self.absences.end();
            self.mounted.attach();
            self.tree.put_back();
            self.tree.note("put back");
        }
    }

    /// One operation less that the filesystem is away for.
    pub(super) fn count_absence(&mut self) {
        match &mut self.absences.operations {
            Some(0) => self.put_back(),
            Some(operations) => *operations -= 1,
            None => {}
        }
    }
}
