//! A DER reader for what parsers hide: the raw entries of an extension and the seams between concatenated
//! certificates (X.690 8.1, 10.1: definite lengths in the fewest bytes).

/// Reads tag-length-value triples one after the other.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

/// One element: its identifier byte, its content, and all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    pub(crate) whole: &'a [u8],
}

/// The bytes are not DER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotDer;

/// `SEQUENCE` and `SEQUENCE OF`.
pub(crate) const SEQUENCE: u8 = 0x30;

// === impl Reader ===

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next element, or `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Element<'a>>, NotDer> {
        let start = self.rest;
        let Some((&tag, after_tag)) = start.split_first() else {
            return Ok(None);
        };
        // Tag numbers of 31 and more take further bytes; nothing that is read here uses them.
        if tag & 0x1f == 0x1f {
            return Err(NotDer);
        }
        let (&first, after_first) = after_tag.split_first().ok_or(NotDer)?;
        let (length, body) = if first < 0x80 {
            (usize::from(first), after_first)
        } else {
            let count = usize::from(first & 0x7f);
            // 0 would be the indefinite form; 4 bytes hold more than any message.
            if count == 0 || count > 4 {
                return Err(NotDer);
            }
            let (digits, body) = after_first.split_at_checked(count).ok_or(NotDer)?;
            let length = digits.iter().fold(0usize, |sum, byte| (sum << 8) | usize::from(*byte));
            let fewest =
                if length < 0x80 { 0 } else { (usize::BITS - length.leading_zeros()).div_ceil(8) as usize };
            if count != fewest {
                return Err(NotDer);
            }
            (length, body)
        };
        let (content, rest) = body.split_at_checked(length).ok_or(NotDer)?;
        let whole = start.get(..start.len() - rest.len()).ok_or(NotDer)?;
        self.rest = rest;
        Ok(Some(Element { tag, content, whole }))
    }

    /// The content of the one `SEQUENCE` that makes up all of `bytes`.
    pub(crate) fn sequence(bytes: &'a [u8]) -> Result<Self, NotDer> {
        let mut outer = Self::new(bytes);
        match (outer.next()?, outer.rest) {
            (Some(Element { tag: SEQUENCE, content, .. }), []) => Ok(Self::new(content)),
            _ => Err(NotDer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_follow_each_other_and_know_their_bytes() {
        let mut reader = Reader::new(&[0x86, 1, b'x', 0x30, 0]);
        let first = reader.next().unwrap().unwrap();
        assert_eq!((first.tag, first.content, first.whole), (0x86, &b"x"[..], &[0x86, 1, b'x'][..]));
        assert_eq!(reader.next().unwrap().unwrap().tag, SEQUENCE);
        assert_eq!(reader.next(), Ok(None));
    }

    #[test]
    fn lengths_take_the_fewest_bytes_and_fit_the_input() {
        for bad in [
            &[0x30][..],
            &[0x30, 1],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x81, 0x7f],
            &[0x30, 0x81, 0],
            &[0x30, 0x82, 0, 0x80],
            &[0x30, 0x85, 0, 0, 0, 0, 0],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x3f, 0x81, 0, 0],
        ] {
            assert_eq!(Reader::new(bad).next(), Err(NotDer), "{bad:x?}");
        }
        let mut long = vec![0x04, 0x81, 0x80];
        long.extend([7; 0x80]);
        assert_eq!(Reader::new(&long).next().unwrap().unwrap().content.len(), 0x80);
        let mut longer = vec![0x04, 0x82, 0x01, 0x00];
        longer.extend([7; 0x100]);
        assert_eq!(Reader::new(&longer).next().unwrap().unwrap().content.len(), 0x100);
    }

    #[test]
    fn a_sequence_is_all_of_the_input() {
        assert!(Reader::sequence(&[0x30, 0]).is_ok());
        assert!(Reader::sequence(&[0x30, 0, 0]).is_err());
        assert!(Reader::sequence(&[0x31, 0]).is_err());
        assert!(Reader::sequence(&[]).is_err());
    }
}
