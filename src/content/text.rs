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
    let Some((encoding, text)) = data.split_first() else { return Ok(None) };
    let text = match encoding {
        0 => latin1(text),
        // A byte order mark is required. Without one, the order is the one of the machines that wrote such tags.
        1 => utf16(text, Order::LittleEndian),
        2 => utf16(text, Order::BigEndian),
        3 => String::from_utf8_lossy(text).into_owned(),
        _ => return Err(format!("has the text encoding {encoding}, which is not known")),
    };
    Ok(tidy(text.trim_start_matches('\u{feff}')))
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
    fn what_is_not_utf8_is_of_windows() {
        assert_eq!(utf8_or_windows("Größe".as_bytes()), "Größe");
        assert_eq!(utf8_or_windows(b"Gr\xf6\xdfe \x96"), "Größe –");
    }
}
