//! The real binary in a folder of its own, with a library, a state and a broker.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

use super::disk::{Files, files_in, fixtures, write_settled};
use super::oracle::Oracle;
use super::process::{Ended, LIMIT, Launcher, Recorded};

/// A library, a state, and what the program is started with.
pub(crate) struct Program {
    folder: TempDir,
    pub(crate) launcher: Launcher,
}

impl Program {
    /// An empty library, and messages that go to the broker at this URL.
    pub(crate) fn new(url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (library, state) = (folder.path().join("music"), folder.path().join("state"));
        fs::create_dir(&library).unwrap();
        let mut launcher = Launcher::new(folder.path());
        launcher.set("DATA_DIR", library).set("STATE_DIR", state).set("RABBITMQ_URL", url).set("SETTLE_MS", "300");
        Self { folder, launcher }
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.launcher.set(name, value);
        self
    }

    /// Gives the program a table of hosts of its own, which can be written again: it has mounts of its own. Needs to be
    /// root.
    pub(crate) fn has_hosts(&mut self, table: &str) -> PathBuf {
        let hosts = self.place("hosts");
        std::fs::write(&hosts, table).unwrap();
        let script = r#"mount --bind "$1" /etc/hosts && shift && exec "$@""#;
        let runner = ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", script, "sh", hosts.to_str().unwrap()];
        self.set("PATH", "/usr/bin:/bin").launcher.run_by(runner);
        hosts
    }

    /// A path in the working directory.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The library's root.
    pub(crate) fn root(&self) -> PathBuf {
        self.place("music")
    }

    /// A path in the library.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root().join(name)
    }

    /// Writes a file of the library that counts as settled.
    pub(crate) fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        write_settled(&self.path(name), content);
    }

    /// Writes a fixture into the library, settled.
    pub(crate) fn add(&self, fixture: &str, name: &str) {
        self.write(name, fs::read(fixtures().join(fixture)).unwrap());
    }

    /// Writes so many small files, a hundred in a directory, each with content of its own.
    pub(crate) fn fill(&self, files: usize) {
        for number in 0..files {
            self.write(format!("{:04}/{:02}.mp3", number / 100, number % 100), format!("content {number}"));
        }
    }

    /// What is on disk.
    pub(crate) fn files(&self) -> Files {
        files_in(&self.root())
    }

    /// A consumer of all messages.
    pub(crate) fn oracle(&self) -> Oracle {
        Oracle::new(&self.root())
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Recorded {
        self.launcher.record(arguments)
    }

    /// Runs it to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Ended {
        self.start(arguments).ended().await
    }

    /// Scans the library to the end, which must succeed.
    pub(crate) async fn scan(&self) -> Ended {
        let scanned = self.run(&["scan"]).await;
        assert_eq!(scanned.code, Some(0), "{}", scanned.log);
        scanned
    }

    /// The program's database, to be read also while the program runs.
    pub(crate) fn store(&self) -> Connection {
        let store = self.place("state/amqp.sqlite");
        let store = Connection::open_with_flags(store, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        store.busy_timeout(LIMIT).unwrap();
        store
    }

    /// How many rows a table has.
    pub(crate) fn count(&self, table: &str) -> usize {
        self.number(&format!("SELECT count(*) FROM {table}"))
    }

    /// The number that a query gives.
    pub(crate) fn number(&self, query: &str) -> usize {
        let number: i64 = self.store().query_row(query, [], |row| row.get(0)).unwrap();
        usize::try_from(number).unwrap()
    }

    /// How many messages are in the outbox. They have no gaps, and counting many would take long.
    pub(crate) fn waiting(&self) -> usize {
        self.number("SELECT coalesce(max(sequence) - min(sequence) + 1, 0) FROM outbox")
    }
}
