//! The names of fields in tags whose names are free: Vorbis comments, APEv2, user-defined frames of ID3v2, freeform items
//! of MP4, attributes of ASF.
//!
//! Programs write them in upper or lower case, and with or without separators: `MUSICBRAINZ_ALBUMID`, `MusicBrainz Album
//! Id` and `MusicBrainz/Album Id` are one name.
//!
//! Source: the tables of MusicBrainz Picard ("Tag mapping") and of Mp3tag ("Tag field mappings").

use super::found::Field;

/// The names without separators, in lower case. Those of the first six fields are not here: each kind of tag has its own.
const NAMES: [(&str, Field); 18] = [
    ("albumartist", Field::AlbumArtist),
    ("composer", Field::Composer),
    ("disc", Field::Disc),
    ("discnumber", Field::Disc),
    ("partofset", Field::Disc),
    ("musicbrainztrackid", Field::MusicBrainzTrackId),
    ("musicbrainzalbumid", Field::MusicBrainzAlbumId),
    ("musicbrainzartistid", Field::MusicBrainzArtistId),
    ("isrc", Field::Isrc),
    ("bpm", Field::Bpm),
    ("beatsperminute", Field::Bpm),
    ("initialkey", Field::InitialKey),
    ("key", Field::InitialKey),
    ("comment", Field::Comment),
    ("compilation", Field::Compilation),
    ("iscompilation", Field::Compilation),
    ("replaygaintrackgain", Field::ReplayGainTrackGain),
    ("replaygainalbumgain", Field::ReplayGainAlbumGain),
];

/// Bytes of the longest name that is compared. All known names are shorter, with any separators.
const LONGEST_NAME: usize = 64;

/// The field that a free name means.
pub(super) fn field_of(name: &str) -> Option<Field> {
    if name.len() > LONGEST_NAME {
        return None;
    }
    let letters = || {
        let bytes = name.bytes().filter(|byte| !matches!(byte, b' ' | b'_' | b'-' | b'/'));
        bytes.map(|byte| byte.to_ascii_lowercase())
    };
    NAMES.iter().find(|(known, _)| letters().eq(known.bytes())).map(|(_, field)| *field)
}

/// Whether the comment or item of this name is a picture.
pub(super) fn is_picture(name: &str) -> bool {
    // Vorbis comments have a block of FLAC in base64, or in old files the picture itself; APEv2 has one item for each kind.
    ["METADATA_BLOCK_PICTURE", "COVERART"].iter().any(|known| name.eq_ignore_ascii_case(known))
        || name.get(..9).is_some_and(|begin| begin.eq_ignore_ascii_case("cover art"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_known_in_every_way_of_writing_it() {
        for (name, field) in [
            ("MUSICBRAINZ_ALBUMID", Some(Field::MusicBrainzAlbumId)),
            ("MusicBrainz Album Id", Some(Field::MusicBrainzAlbumId)),
            ("MusicBrainz/Album Id", Some(Field::MusicBrainzAlbumId)),
            ("MusicBrainz Album Artist Id", None),
            ("MusicBrainz Release Track Id", None),
            ("ALBUM ARTIST", Some(Field::AlbumArtist)),
            ("replaygain_track_gain", Some(Field::ReplayGainTrackGain)),
            ("replaygain_track_peak", None),
            ("", None),
            ("title", None),
        ] {
            assert_eq!(field_of(name), field, "{name}");
        }
    }

    #[test]
    fn a_picture_has_the_name_of_its_format() {
        assert!(["metadata_block_picture", "CoverArt", "Cover Art (Front)"].into_iter().all(is_picture));
        assert!(!["COVERARTMIME", "Cover", "Cöver art"].into_iter().any(is_picture));
    }
}
