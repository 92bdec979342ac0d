//! What the work costs at least.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel as queue};
use std::sync::{Mutex, PoisonError};
use std::thread;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Confirmation};
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::Xxh3Default;

use super::support::consumer::{EXCHANGE, channel};

/// Bytes per read, as many as the program reads.
const CHUNK: usize = 256 * 1024;

/// Messages in a confirmed batch.
const BATCH: usize = 100;

/// Lists, opens, reads and hashes all files under a directory, with two threads.
pub(crate) fn hash(directory: &Path) {
    // Without a bound: the thread that lists must not wait for the other one instead of hashing.
    let (send, receive) = queue();
    let receive = Mutex::new(receive);
    thread::scope(|scope| {
        scope.spawn(|| hash_all(&receive));
        scope.spawn(|| {
            list(directory, &send);
            drop(send);
            hash_all(&receive);
        });
    });
}

fn list(directory: &Path, found: &Sender<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            list(&entry.path(), found);
        } else {
            found.send(entry.path()).unwrap();
        }
    }
}

fn hash_all(found: &Mutex<Receiver<PathBuf>>) {
    let mut buffer = vec![0; CHUNK];
    let next = || found.lock().unwrap_or_else(PoisonError::into_inner).recv();
    while let Ok(path) = next() {
        let mut file = File::open(path).unwrap();
        let (mut sha256, mut xxh128) = (Sha256::new(), Xxh3Default::new());
        loop {
            let read = file.read(&mut buffer).unwrap();
            if read == 0 {
                break;
            }
            sha256.update(&buffer[..read]);
            xxh128.update(&buffer[..read]);
        }
        black_box((sha256.finalize(), xxh128.digest128()));
    }
}

/// Publishes each line of a file as a persistent message, in batches that are confirmed one after the other.
pub(crate) fn publish(url: &str, bodies: &Path) {
    let bodies: Vec<Vec<u8>> =
        BufReader::new(File::open(bodies).unwrap()).split(b'\n').collect::<Result<_, _>>().unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let (_connection, channel) = channel(url).await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let persistent = BasicProperties::default().with_delivery_mode(2);
        for batch in bodies.chunks(BATCH) {
            let mut confirms = Vec::with_capacity(batch.len());
            for body in batch {
                let options = BasicPublishOptions::default();
                let key = "file.created".into();
                let sent = channel.basic_publish(EXCHANGE.into(), key, options, body, persistent.clone());
                confirms.push(sent.await.unwrap());
            }
            for confirm in confirms {
                assert!(matches!(confirm.await.unwrap(), Confirmation::Ack(_)));
            }
        }
    });
}
