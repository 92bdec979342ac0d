//! Only the files that consumers care for.

use futures::Stream;
use tokio_stream::StreamExt;

use crate::model::{Extensions, FsEvent};

pub(super) fn audio_files(hints: impl Stream<Item = FsEvent>, extensions: Extensions) -> impl Stream<Item = FsEvent> {
    hints.filter(move |hint| hint.guards.is_indexed || extensions.matches(&hint.path))
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, Stream, StreamExt, stream};

    use crate::model::{Cause, Extensions, FsEvent, Origin};
    use crate::stream::HintStreamExt;

    #[test]
    fn only_audio_files_go_on_and_in_their_order() {
        let hints = ["b/2.flac", "b", "a.mp3.part", "a.MP3", "notes.txt", "b/1.ogg"]
            .map(|path| FsEvent::new(path.into(), Cause::Closed, Origin::Watch));
        let audio = stream::iter(hints).audio_files(&Extensions::default());
        assert_eq!(audio.size_hint(), (0, Some(6)));
        let paths: Vec<String> = audio.map(|hint| hint.path.to_string()).collect().now_or_never().unwrap();
        assert_eq!(paths, ["b/2.flac", "a.MP3", "b/1.ogg"]);
    }

    #[test]
    fn a_row_is_looked_at_whatever_its_extension() {
        let row = FsEvent::new("a.txt".into(), Cause::Gone, Origin::Scan).indexed();
        let known = stream::iter([row]).audio_files(&Extensions::default());
        assert_eq!(known.count().now_or_never(), Some(1));
    }

    #[test]
    fn the_stream_outlives_the_list_and_can_be_sent() {
        fn sent<T: Send + 'static>(stream: T) -> T {
            stream
        }
        let audio = sent({
            let extensions = Extensions::default();
            stream::empty().audio_files(&extensions)
        });
        assert_eq!(audio.count().now_or_never(), Some(0));
    }
}
