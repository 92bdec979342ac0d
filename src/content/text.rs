//! The encodings of texts in tags.

use super::values::tidy;

/// The first value of a text frame of ID3v2, which begins with the number of its encoding; `None` if it is blank.
///
/// Bytes that are not valid in the encoding become U+FFFD.
///
/// # Errors
///
/// If the encoding is not known, in words that follow the name of the frame.
pub(super) fn of_id3(data: &[u8]) -> Result<Option<String>, String> {
    let Some((&encoding, text)) = data.split_first() else { return Ok(None) };
    Ok(tidy(&Encoding::of(encoding)?.decode(text)))
}

/// Bytes of a description that are decoded: more than any that is known.
const LONGEST_DESCRIPTION: usize = 256;

/// A frame of ID3v2 that has a description before its text, such as TXXX.
pub(super) struct Described<'a> {
    encoding: Encoding,
    description: &'a [u8],
    text: &'a [u8],
}

impl<'a> Described<'a> {
    /// The parts of the frame.
    ///
    /// # Errors
    ///
    /// As for [`of_id3`], and if there is no encoding.
    pub(super) fn of(data: &'a [u8]) -> Result<Self, String> {
        let (&encoding, texts) = data.split_first().ok_or("ends too early")?;
        Ok(Self::split(Encoding::of(encoding)?, texts))
    }

    /// The parts of a frame that also has a language, such as COMM.
    ///
    /// # Errors
    ///
    /// As for [`of_id3`], and if there is no language.
    pub(super) fn with_language(data: &'a [u8]) -> Result<Self, String> {
        match data {
            [encoding, _, _, _, texts @ ..] => Ok(Self::split(Encoding::of(*encoding)?, texts)),
            _ => Err("ends too early".to_owned()),
        }
    }

    fn split(encoding: Encoding, texts: &'a [u8]) -> Self {
        let width = encoding.width();
        let zero = texts.chunks(width).position(|unit| unit.iter().all(|&byte| byte == 0));
        let (description, rest) = texts.split_at(zero.map_or(texts.len(), |unit| unit * width));
        Self { encoding, description, text: rest.get(width..).unwrap_or_default() }
    }

    /// The beginning of the description.
    pub(super) fn description(&self) -> String {
        let length = self.description.len().min(LONGEST_DESCRIPTION);
        self.encoding.decode(&self.description[..length]).trim().to_owned()
    }

    /// The first value of the text; `None` if it is blank.
    pub(super) fn text(&self) -> Option<String> {
        // Some programs write a byte order mark only once.
        tidy(&self.encoding.after_mark_of(self.description).decode(self.text))
    }
}

/// The encoding of a text in ID3v2.
#[derive(Clone, Copy)]
enum Encoding {
    Latin1,
    Utf16(Order),
    Utf8,
}

impl Encoding {
    fn of(number: u8) -> Result<Self, String> {
        Ok(match number {
            0 => Self::Latin1,
            // A byte order mark is required. Without one, the order is the one of the machines that wrote such tags.
            1 => Self::Utf16(Order::LittleEndian),
            2 => Self::Utf16(Order::BigEndian),
            3 => Self::Utf8,
            _ => return Err(format!("has the text encoding {number}, which is not known")),
        })
    }

    /// Bytes of the zero that ends a text.
    fn width(self) -> usize {
        match self {
            Self::Latin1 | Self::Utf8 => 1,
            Self::Utf16(_) => 2,
        }
    }

    /// The encoding of what follows `text`, which may have a byte order mark.
    fn after_mark_of(self, text: &[u8]) -> Self {
        match (self, text) {
            (Self::Utf16(_), [0xFF, 0xFE, ..]) => Self::Utf16(Order::LittleEndian),
            (Self::Utf16(_), [0xFE, 0xFF, ..]) => Self::Utf16(Order::BigEndian),
            _ => self,
        }
    }

    fn decode(self, text: &[u8]) -> String {
        let text = match self {
            Self::Latin1 => latin1(text),
            Self::Utf16(order) => utf16(text, order),
            Self::Utf8 => String::from_utf8_lossy(text).into_owned(),
        };
        match text.strip_prefix('\u{feff}') {
            Some(rest) => rest.trim_start_matches('\u{feff}').to_owned(),
            None => text,
        }
    }
}

/// ISO 8859-1: each byte is a character.
pub(super) fn latin1(text: &[u8]) -> String {
    text.iter().copied().map(char::from).collect()
}

/// UTF-8, or else the code page of Western Windows, in which old programs wrote.
pub(super) fn utf8_or_windows(text: &[u8]) -> String {
    match str::from_utf8(text) {
        Ok(text) => text.to_owned(),
        Err(_) => encoding_rs::WINDOWS_1252.decode_without_bom_handling(text).0.into_owned(),
    }
}

/// UTF-16, the high byte of each unit first unless a byte order mark says otherwise.
pub(super) fn utf16_be(text: &[u8]) -> String {
    utf16(text, Order::BigEndian)
}

/// UTF-16, the low byte of each unit first unless a byte order mark says otherwise.
pub(super) fn utf16_le(text: &[u8]) -> String {
    utf16(text, Order::LittleEndian)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    LittleEndian,
    BigEndian,
}

/// UTF-16. A byte order mark at the beginning of a value decides about it and those behind it. An odd last byte is left
/// out.
fn utf16(text: &[u8], order: Order) -> String {
    let mut order = order;
    let mut text = text;
    match text {
        [0xFF, 0xFE, rest @ ..] => (order, text) = (Order::LittleEndian, rest),
        [0xFE, 0xFF, rest @ ..] => (order, text) = (Order::BigEndian, rest),
        _ => {}
    }
    let units = text.chunks_exact(2).map(|pair| match order {
        Order::LittleEndian => u16::from_le_bytes([pair[0], pair[1]]),
        Order::BigEndian => u16::from_be_bytes([pair[0], pair[1]]),
    });
    char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_encoding_of_id3_is_read() {
        let of = |data: &[u8]| of_id3(data).unwrap().unwrap_or_default();
        assert_eq!(of(b"\0Bj\xf6rk\0second"), "Björk");
        assert_eq!(of(b"\x01\xff\xfeA\0\xf6\0\0\0B\0"), "Aö");
        assert_eq!(of(b"\x01\xfe\xff\0A\0\xf6"), "Aö");
        assert_eq!(of(b"\x01A\0b\0"), "Ab", "without a byte order mark");
        assert_eq!(of(b"\x01\xff\xfeA\0b"), "A", "an odd byte");
        assert_eq!(of(b"\x01\xff\xfe\0\xd8A\0"), "\u{fffd}A", "a lone surrogate");
        assert_eq!(of(b"\x02\0A\0b"), "Ab");
        assert_eq!(of(b"\x03\xc3\xb6\xff"), "ö\u{fffd}");
        assert_eq!(of(b""), "");
        assert_eq!(of_id3(b"\x09A").unwrap_err(), "has the text encoding 9, which is not known");
    }

    #[test]
    fn a_text_follows_its_description() {
        let shown =
            |described: Described<'_>| format!("{}={}", described.description(), described.text().unwrap_or_default());
        let of = |data: &[u8]| shown(Described::of(data).unwrap());
        assert_eq!(of(b"\0name\0text\0more"), "name=text");
        assert_eq!(of(b"\0\0text"), "=text");
        assert_eq!(of(b"\0name"), "name=");
        assert_eq!(of(b"\x01\xff\xfe\0a\0\0\xff\xfeb\0"), "\u{6100}=b", "zeros that are not aligned end nothing");
        assert_eq!(of(b"\x01\xfe\xff\0a\0\0\0b"), "a=b", "one byte order mark for both");
        assert_eq!(of(b"\x01\xff\xfe\0\0\xfe\xff\0b"), "=b", "two different ones");
        assert_eq!(of(b"\x03\xc3\xb6\0\xc3\xb6"), "ö=ö");
        assert_eq!(shown(Described::with_language(b"\0engname\0text").unwrap()), "name=text");
        assert_eq!(Described::with_language(b"\0en").err().as_deref(), Some("ends too early"));
        assert!(Described::of(b"").is_err() && Described::with_language(b"\x09eng\0").is_err());
        let long = [&b"\0"[..], &[b'x'; 1000], b"\0text"].concat();
        assert_eq!(of(&long), format!("{}=text", "x".repeat(LONGEST_DESCRIPTION)));
    }

    #[test]
    fn what_is_not_utf8_is_of_windows() {
        assert_eq!(utf8_or_windows("Größe".as_bytes()), "Größe");
        assert_eq!(utf8_or_windows(b"Gr\xf6\xdfe \x96"), "Größe –");
    }
}
