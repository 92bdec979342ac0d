//! The operations of histories about names.

use std::path::PathBuf;
use std::time::Duration;

use super::{History, one_of};
use crate::names::{AWAY, NameOperation, Track};
use crate::operation::Content;
use crate::tree::{How, LIBRARY};

impl History {
    /// Does one of the operations whose contents are all different.
    pub(super) fn pass_names_round(&mut self, operation: &NameOperation) {
        match *operation {
            NameOperation::Add { album, count, content } => {
                self.make_parent(&Track { album, number: 1 }.path());
                let last = self.tracks(album).last().map_or(0, |track| track.number);
                for number in 1..=count {
                    let content = Content { seed: content.seed.wrapping_add(number as u64), ..content };
                    self.write(&Track { album, number: last + number as u64 }.path(), content, How::Whole);
                }
            }
            NameOperation::RenumberUp { album, from } => {
                for track in self.tracks(album).iter().rev().filter(|track| track.number >= from) {
                    self.tree.rename(&track.path(), &Track { number: track.number + 1, ..*track }.path());
                }
            }
            NameOperation::RenumberDown { album, from } => {
                let tracks = self.tracks(album);
                let gap = from.saturating_sub(1);
                if gap == 0 || tracks.iter().any(|track| track.number == gap) {
                    return;
                }
                for track in tracks.iter().filter(|track| track.number >= from) {
                    self.tree.rename(&track.path(), &Track { number: track.number - 1, ..*track }.path());
                }
            }
            NameOperation::Rotate { albums, choices, count, pause_ms } => {
                let mut paths: Vec<PathBuf> = Vec::new();
                for (album, choice) in albums.into_iter().zip(choices).take(count) {
                    paths.extend(one_of(self.track_paths(album), choice).filter(|path| !paths.contains(path)));
                }
                let [first, rest @ ..] = paths.as_slice() else { return };
                let aside = first.with_file_name("aside.mp3");
                let mut free = first;
                self.tree.rename(first, &aside);
                for path in rest {
                    self.pass(Duration::from_millis(pause_ms));
                    self.tree.rename(path, free);
                    free = path;
                }
                self.tree.rename(&aside, free);
            }
            NameOperation::Exchange { albums, choices } => {
                let [one, other] = [0, 1].map(|index| one_of(self.track_paths(albums[index]), choices[index]));
                if let (Some(one), Some(other)) = (one, other) {
                    self.tree.exchange(&one, &other);
                }
            }
            NameOperation::MoveAwayAndWrite { album, choice, content } => {
                let Some(path) = one_of(self.track_paths(album), choice) else { return };
                let last = self.tracks(AWAY).last().map_or(0, |track| track.number);
                let away = Track { album: AWAY, number: last + 1 }.path();
                self.make_parent(&away);
                self.tree.rename(&path, &away);
                self.write(&path, content, How::Whole);
            }
            NameOperation::Save { album, choice, pause_ms, content } => {
                let Some(path) = one_of(self.track_paths(album), choice) else { return };
                let beside = path.with_extension("temp.mp3");
                self.write(&beside, content, How::Whole);
                self.pass(Duration::from_millis(pause_ms));
                self.tree.rename(&beside, &path);
            }
            NameOperation::Retag { album, choice, content } => {
                if let Some(path) = one_of(self.track_paths(album), choice) {
                    self.write(&path, content, How::InPlaceAndCut);
                }
            }
            NameOperation::Remove { album, choice } => {
                if let Some(path) = one_of(self.track_paths(album), choice) {
                    self.tree.remove(&path);
                }
            }
        }
    }

    /// The tracks of an album, by number.
    fn tracks(&self, album: usize) -> Vec<Track> {
        let mut tracks: Vec<Track> = self.tree.files_in(LIBRARY).iter().filter_map(|path| Track::at(path)).collect();
        tracks.retain(|track| track.album == album);
        tracks.sort_by_key(|track| track.number);
        tracks
    }

    fn track_paths(&self, album: usize) -> Vec<PathBuf> {
        self.tracks(album).iter().map(Track::path).collect()
    }
}
