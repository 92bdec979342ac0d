//! Filesystems that fail or do not answer.

use std::fs;
use std::time::{Duration, Instant};

use crate::scenarios::{Place, Stage, write_old};
use crate::support::disk::write;
use crate::support::mirror::{Faults, Mirror, Oddity};

/// How long it may take to start and to stop beside a filesystem that does not answer.
const PROMPT: Duration = Duration::from_secs(20);

fn stage(place: Place) -> (Stage, Faults) {
    let mirror = Mirror::new(Oddity::None);
    let faults = mirror.faults();
    (Stage::new(Box::new(mirror), place), faults)
}

#[test]
fn what_gives_errors_is_not_called_deleted() {
    for live in [false, true] {
        let (mut stage, faults) = stage(Place::Below);
        if live {
            stage.library.start();
        } else {
            stage.library.scan();
        }
        stage.library.wait_until_converged();
        let failing = [(Some("00.mp3"), None, None), (None, Some("1"), None), (None, None, Some("02.mp3"))];
        for (round, (stat, list, read)) in failing.into_iter().enumerate() {
            let mark = stage.library.mark();
            faults.fail(stat, list, read);
            stage.change(|folder| {
                write_old(&folder.join("2/02.mp3"), &format!("rewritten in round {round}"));
                fs::remove_file(folder.join(format!("0/{:02}.mp3", 15 + 3 * round))).unwrap();
            });
            if live {
                let deleted = format!("deleted disk/0/{:02}.mp3", 15 + 3 * round);
                stage.library.wait_for("the rest is followed", |consumer| {
                    consumer.messages.iter().any(|message| message.short() == deleted)
                });
            } else {
                let _ = stage.library.try_to(&["scan"]);
            }
            let published = stage.published(mark);
            let deletes = published.iter().filter(|published| published.starts_with("deleted")).count();
            assert_eq!(deletes, 1, "{published:?}");
            faults.fail(None, None, None);
            if !live {
                stage.library.scan();
            }
            stage.library.wait_until_converged();
        }
    }
}

#[test]
fn a_server_that_hangs_stops_neither_the_start_nor_the_rest_nor_the_end() {
    let (mut stage, faults) = stage(Place::Below);
    stage.library.start();
    stage.library.wait_until_converged();
    stage.library.stop();

    faults.hang_when_asked();
    let mark = stage.library.mark();
    stage.library.spawn();
    // The walk finds what is new elsewhere, and so does the watcher.
    write(&stage.library.path("here/a.mp3"), "found by the walk");
    let is_published = |stage: &Stage, published: &'static str| {
        stage
            .library
            .wait_for(published, |consumer| consumer.messages.iter().any(|message| message.short() == published));
    };
    is_published(&stage, "created here/a.mp3");
    write(&stage.library.path("zzz/b.mp3"), "beside it");
    is_published(&stage, "created zzz/b.mp3");
    fs::remove_file(stage.library.path("zzz/b.mp3")).unwrap();
    is_published(&stage, "deleted zzz/b.mp3");
    let begun = Instant::now();
    stage.library.stop();
    assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
    assert!(
        !stage.published(mark).iter().any(|published| published.starts_with("deleted") && !published.contains("zzz"))
    );

    // It answers again, and hangs while it is watched.
    faults.answer();
    stage.library.start();
    stage.library.wait_until_converged();
    faults.hang_when_asked();
    write(&stage.library.path("here/c.mp3"), "while it hangs");
    is_published(&stage, "created here/c.mp3");
    // Longer than it takes to be polled.
    stage.library.stay_silent(Duration::from_secs(3));
    write(&stage.library.path("here/d.mp3"), "while it still hangs");
    is_published(&stage, "created here/d.mp3");
    faults.answer();
    stage.change(|folder| write(&folder.join("0/00.mp3"), "it answers"));
    stage.library.wait_until_converged();

    faults.hang_when_asked();
    let begun = Instant::now();
    stage.library.stop();
    assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
    faults.answer();
}

/// No look is taken back that is on its way already, but it holds up no other one.
#[test]
fn a_server_that_hangs_in_the_middle_of_a_look_holds_up_nothing_else() {
    let (mut stage, faults) = stage(Place::Below);
    stage.library.start();
    stage.library.wait_until_converged();
    for round in 0..3 {
        faults.hang();
        for number in 0..3 {
            let (name, mark) = (format!("here/{round}{number}.mp3"), stage.library.mark());
            write(&stage.library.path(&name), format!("{round} {number}"));
            let created = format!("created {name}");
            stage
                .library
                .wait_for(&created, |consumer| consumer.messages.iter().any(|message| message.short() == created));
            assert!(stage.library.published_since(mark).len() == 1);
            std::thread::sleep(Duration::from_millis(700));
        }
        faults.answer();
        stage.change(|folder| write(&folder.join("0/00.mp3"), format!("it answers {round}")));
        stage.library.wait_until_converged();
    }
    stage.library.stop();
}

#[test]
fn a_scan_ends_though_a_server_hangs() {
    let (mut stage, faults) = stage(Place::Below);
    stage.library.scan();
    let mark = stage.library.mark();
    faults.hang_when_asked();
    write_old(&stage.library.path("zzz/new.mp3"), "beside it");
    let begun = Instant::now();
    let (_, log) = stage.library.try_to(&["scan"]);
    assert!(begun.elapsed() < PROMPT, "{:?}\n{log}", begun.elapsed());
    assert_eq!(stage.published(mark), ["created zzz/new.mp3"], "{log}");
    faults.answer();
    let summary = stage.library.scan();
    assert!(summary.hashed_nothing(), "{}", summary.text);
    stage.library.wait_until_converged();
}
