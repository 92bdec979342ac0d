//! Several instances share one library.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use file_watcher::model::{LibraryPath, Partition};

use super::rules::watched_directories;
use crate::support::disk::{Files, files_in, write};
use crate::support::library::Library;
use crate::support::oracle::Message;
use crate::support::process::LIMIT;

const ARTISTS: usize = 14;

fn part(index: usize, count: usize) -> Partition {
    format!("{index}/{count}").parse().unwrap()
}

fn belongs(partition: Partition, path: &Path) -> bool {
    partition.has_file(&LibraryPath::from(path.to_str().unwrap()))
}

/// Gives the instance this part from its next start on.
fn assign(instance: &mut Library, index: usize, count: usize) {
    instance.set("PARTITION", format!("{index}/{count}")).set("INSTANCE_ID", format!("part-{index}"));
}

/// What consumers know of each part from its instance.
fn union(instances: &[Library]) -> Files {
    let count = instances.len();
    let of_part = |(number, instance): (usize, &Library)| {
        let partition = part(number + 1, count);
        instance.files().into_iter().filter(move |(path, _)| belongs(partition, path))
    };
    instances.iter().enumerate().flat_map(of_part).collect()
}

fn wait_until_the_union_is_the_disk(instances: &[Library]) {
    let disk = files_in(&instances[0].root());
    let begun = Instant::now();
    while union(instances) != disk {
        assert!(begun.elapsed() < LIMIT, "the parts together do not become what is on disk");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Writes, renames and deletes files, in one directory of the root and from one to another, until `is_over`.
fn change_files(root: &Path, is_over: &AtomicBool) {
    let file = |artist: usize, track: usize| root.join(format!("Artist {}/{track}.mp3", artist % ARTISTS));
    let mut step = 0;
    while !is_over.load(Ordering::Relaxed) {
        let (artist, track) = (step * 5 + step / 7, step % 9);
        match step % 4 {
            0 => write(&file(artist, track), format!("{step}")),
            1 => drop(fs::rename(file(artist - 5, (step - 1) % 9), file(artist, track))),
            2 => drop(fs::remove_file(file(artist, track))),
            _ => write(&root.join(format!("in the root {}.mp3", step % 3)), format!("{step}")),
        }
        step += 1;
        thread::sleep(Duration::from_millis(3));
    }
}

/// Each message of the instance since `mark` is about its own part.
fn assert_no_conflict(instance: &Library, mark: usize, partition: Partition) {
    for message in &instance.messages()[mark..] {
        assert!(belongs(partition, &message.path), "{partition} published {}", message.short());
    }
}

#[test]
fn two_instances_become_three_and_two_again_while_files_change() {
    let mut instances = vec![Library::new()];
    instances.push(Library::sharing(&instances[0]));
    let root = instances[0].root();
    for artist in 0..ARTISTS {
        for track in 0..9 {
            write(&root.join(format!("Artist {artist}/{track}.mp3")), format!("{artist} {track}"));
        }
    }
    for (number, instance) in instances.iter_mut().enumerate() {
        assign(instance, number + 1, 2);
        instance.start();
    }
    let changing = |root: PathBuf, work: &mut dyn FnMut()| {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| change_files(&root, &is_over));
            thread::sleep(Duration::from_millis(500));
            work();
            thread::sleep(Duration::from_millis(500));
            is_over.store(true, Ordering::Relaxed);
        });
    };
    changing(root.clone(), &mut || {});
    wait_until_the_union_is_the_disk(&instances);
    for (number, instance) in instances.iter().enumerate() {
        assert_no_conflict(instance, 0, part(number + 1, 2));
        assert!(!instance.messages().is_empty(), "instance {} has a share", number + 1);
    }

    // The new instance first, so that every file belongs to one that runs.
    let mut third = Library::sharing(&instances[0]);
    let mut marks = Vec::new();
    changing(root.clone(), &mut || {
        assign(&mut third, 3, 3);
        third.start();
        for (number, instance) in instances.iter_mut().enumerate() {
            instance.stop();
            marks.push(instance.messages().len());
            assign(instance, number + 1, 3);
            instance.keep_only(|path| belongs(part(number + 1, 3), path));
            instance.start();
        }
    });
    instances.push(third);
    marks.push(0);
    wait_until_the_union_is_the_disk(&instances);
    for (number, (instance, mark)) in instances.iter().zip(marks).enumerate() {
        assert_no_conflict(instance, mark, part(number + 1, 3));
    }
    let moved = instances[2].messages().len();
    assert!(moved > 0, "the third has a share");

    // The others take over its share before it ends.
    let before: Vec<Files> = instances.iter().map(Library::files).collect();
    let mut marks = Vec::new();
    changing(root.clone(), &mut || {
        for (number, instance) in instances[..2].iter_mut().enumerate() {
            instance.stop();
            marks.push(instance.messages().len());
            assign(instance, number + 1, 2);
            instance.start();
        }
        instances[2].stop();
    });
    instances.pop();
    wait_until_the_union_is_the_disk(&instances);
    for (number, (instance, mark)) in instances.iter().zip(marks).enumerate() {
        assert_no_conflict(instance, mark, part(number + 1, 2));
        let is_created = |message: &&Message| message.event_type == "created" && message.origin == "scan";
        let created = instance.messages()[mark..].iter().filter(is_created).count();
        let share = before[2].keys().filter(|path| belongs(part(number + 1, 2), path)).count();
        assert!(share == 0 || created > 0, "what was taken over is published as created");
    }
}

#[test]
fn each_instance_watches_only_its_part() {
    let first = Library::new();
    for artist in 0..ARTISTS {
        first.write(format!("Artist {artist}/album/1.mp3"), format!("{artist}"));
    }
    let mut instances = [Library::sharing(&first), first];
    instances.reverse();
    let mut watched = 0;
    for (number, instance) in instances.iter_mut().enumerate() {
        assign(instance, number + 1, 2);
        instance.start();
        let artists =
            (0..ARTISTS).filter(|artist| part(number + 1, 2).has(format!("Artist {artist}").as_bytes(), true));
        let count = artists.count();
        // The root, and the two levels of each artist.
        assert_eq!(watched_directories(instance), 1 + 2 * count);
        watched += count;
    }
    assert_eq!(watched, ARTISTS);
    let root = instances[0].root();
    for artist in 0..ARTISTS {
        fs::rename(root.join(format!("Artist {artist}")), root.join(format!("Moved {artist}"))).unwrap();
        write(&root.join(format!("New {artist}/1.mp3")), "new");
    }
    wait_until_the_union_is_the_disk(&instances);
    // What has another name or is new is watched too.
    for artist in 0..ARTISTS {
        for name in ["Moved", "New"] {
            write(&root.join(format!("{name} {artist}/later/2.mp3")), format!("later {name} {artist}"));
        }
    }
    wait_until_the_union_is_the_disk(&instances);
}
