//! What the kernel answers to a batch.

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `NLMSG_ERROR`: an error, or with number 0 an acknowledgement.
const ERROR: u16 = 2;

/// The answer to one message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reply {
    /// Which message.
    pub sequence: u32,
    /// 0, or an `errno`.
    pub error: u32,
}

/// The answers in one datagram. What is cut off or is no answer is left out: a message without an
/// answer counts as not done.
#[must_use]
pub fn replies(mut datagram: &[u8]) -> Vec<Reply> {
    let mut found = Vec::new();
    while let Some((length, header)) = header(datagram) {
        let (Some(message), rest) =
            (datagram.get(..length), datagram.get(length.next_multiple_of(4)..).unwrap_or_default())
        else {
            break;
        };
        if header.kind == ERROR
            && let Some(error) = message.get(HEADER..).and_then(|payload| payload.first_chunk())
        {
            let error = i32::from_ne_bytes(*error).unsigned_abs();
            found.push(Reply { sequence: header.sequence, error });
        }
        datagram = rest;
    }
    found
}

struct Header {
    kind: u16,
    sequence: u32,
}

fn header(bytes: &[u8]) -> Option<(usize, Header)> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (kind, rest) = rest.split_first_chunk()?;
    let (_flags, rest) = rest.split_first_chunk::<2>()?;
    let (sequence, rest) = rest.split_first_chunk()?;
    let _port = rest.first_chunk::<4>()?;
    let length = usize::try_from(u32::from_ne_bytes(*length)).ok()?;
    (length >= HEADER).then_some((
        length,
        Header { kind: u16::from_ne_bytes(*kind), sequence: u32::from_ne_bytes(*sequence) },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + payload.len()).unwrap();
        let mut bytes = [length.to_ne_bytes().as_slice(), &kind.to_ne_bytes(), &[0; 2]].concat();
        bytes.extend([sequence.to_ne_bytes(), [0; 4]].concat());
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn acknowledgements_and_errors_are_told_apart() {
        let mut datagram = message(ERROR, 3, &[0; 20]);
        datagram.extend(message(3, 4, &[]));
        datagram.extend(message(ERROR, 5, &[(-2_i32).to_ne_bytes().as_slice(), &[9; 40]].concat()));
        let expected = [Reply { sequence: 3, error: 0 }, Reply { sequence: 5, error: 2 }];
        assert_eq!(replies(&datagram), expected);
        // Cut anywhere, it says less and never something else.
        for end in 0..datagram.len() {
            assert!(expected.starts_with(&replies(&datagram[..end])));
        }
    }

    #[test]
    fn lengths_that_lie_end_the_datagram() {
        for length in [0_u32, 15, 17, u32::MAX] {
            let mut datagram = message(ERROR, 1, &[0; 4]);
            datagram[..4].copy_from_slice(&length.to_ne_bytes());
            assert!(replies(&datagram).iter().all(|reply| reply.sequence == 1));
        }
    }
}
