//! Netlink messages, byte by byte: headers of this machine's byte order around attributes of the network's
//! (linux/netlink.h, linux/netfilter/nfnetlink.h).

/// The attribute's payload is attributes again.
const NESTED: u16 = 0x8000;
/// Length and kind in front of every attribute.
const ATTRIBUTE_HEADER: usize = 4;
/// `struct nlmsghdr` and, behind it, `struct nfgenmsg`.
const HEADER: usize = 16;

/// One message, and what it asks for in words.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    bytes: Vec<u8>,
    pub(crate) what: String,
}

// === impl Message ===

impl Message {
    /// A message of this kind. `resource` is what nfnetlink calls `res_id`.
    pub(crate) fn new(what: impl Into<String>, kind: u16, flags: u16, family: u8, resource: u16) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend([0; 4]);
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        // Sequence number, and the port of the sender, which is the kernel's business.
        bytes.extend([0; 8]);
        // The version of nfnetlink is 0.
        bytes.extend([family, 0]);
        bytes.extend(resource.to_be_bytes());
        Self { bytes, what: what.into() }
    }

    pub(crate) fn bytes(&mut self, kind: u16, payload: &[u8]) {
        self.attribute(kind, |message| message.bytes.extend(payload));
    }

    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Text ends with a NUL.
    pub(crate) fn text(&mut self, kind: u16, text: &str) {
        self.attribute(kind, |message| {
            message.bytes.extend(text.as_bytes());
            message.bytes.push(0);
        });
    }

    pub(crate) fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) {
        self.attribute(kind | NESTED, inside);
    }

    fn attribute(&mut self, kind: u16, payload: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        payload(self);
        // Nothing here comes near the limit; a length that did not fit would be refused by the kernel.
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.write(start, &length.to_ne_bytes());
        let padded = self.bytes.len().next_multiple_of(ATTRIBUTE_HEADER);
        self.bytes.resize(padded, 0);
    }

    /// The finished message, as number `sequence` of its batch.
    pub(crate) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.write(0, &length.to_ne_bytes());
        self.write(HEADER - 8, &sequence.to_ne_bytes());
        self.bytes
    }

    fn write(&mut self, at: usize, value: &[u8]) {
        for (byte, new) in self.bytes.iter_mut().skip(at).zip(value) {
            *byte = *new;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nests_count_what_is_in_them() {
        let mut message = Message::new("a table", 0x0a00, 0x0405, 1, 0);
        message.text(1, "mantlet");
        message.nest(4, |inside| {
            inside.number(1, 2);
            inside.bytes(2, &[7]);
        });
        let bytes = message.finish(3);
        let mut expected = Vec::new();
        expected.extend(52_u32.to_ne_bytes());
        expected.extend([0x0a00_u16.to_ne_bytes(), 0x0405_u16.to_ne_bytes()].concat());
        expected.extend(3_u32.to_ne_bytes());
        expected.extend([0, 0, 0, 0, 1, 0, 0, 0]);
        expected.extend([12_u16.to_ne_bytes(), 1_u16.to_ne_bytes()].concat());
        expected.extend(*b"mantlet\0");
        expected.extend([20_u16.to_ne_bytes(), 0x8004_u16.to_ne_bytes()].concat());
        expected.extend([8_u16.to_ne_bytes(), 1_u16.to_ne_bytes()].concat());
        expected.extend([0, 0, 0, 2]);
        expected.extend([5_u16.to_ne_bytes(), 2_u16.to_ne_bytes()].concat());
        expected.extend([7, 0, 0, 0]);
        assert_eq!(bytes, expected);
    }
}
