//! As much of the DNS message as a scripted server needs: one question in, one response out.
//!
//! Owns the bytes. Promises that no input can panic it: what cannot be parsed is `None` and goes unanswered. Leaves
//! what to answer to [`super`]. Pure. Next: [`super::script`].

use std::net::IpAddr;

/// A question as it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    id: u16,
    flags: u16,
    /// Lower case, no trailing dot.
    pub(super) name: String,
    pub(super) kind: u16,
    /// The question section as sent, to be echoed with its upper and lower case.
    raw: Vec<u8>,
}

/// What a response says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) code: u8,
    pub(super) truncated: bool,
    pub(super) ttl: u32,
    pub(super) addrs: Vec<IpAddr>,
}

impl Question {
    /// Reads a query with exactly one question.
    pub(super) fn parse(message: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            Some(u16::from_be_bytes(
                message.get(at..at + 2)?.try_into().ok()?,
            ))
        };
        let (id, flags, count) = (word(0)?, word(2)?, word(4)?);
        if flags & QR != 0 || count != 1 {
            return None;
        }
        let mut at = HEADER;
        let mut labels = Vec::new();
        loop {
            let length = usize::from(*message.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            // A compressed name cannot stand in the first question.
            if length > 63 || at > HEADER + 255 {
                return None;
            }
            let label = String::from_utf8_lossy(message.get(at..at + length)?);
            labels.push(label.to_lowercase());
            at += length;
        }
        let kind = word(at)?;
        let raw = message.get(HEADER..at + 4)?.to_vec();
        let name = labels.join(".");
        Some(Self {
            id,
            flags,
            name,
            kind,
            raw,
        })
    }

    /// The bytes of `response` to this question.
    pub(super) fn encode(&self, response: &Response) -> Vec<u8> {
        let fitting = |ip: &&IpAddr| match ip {
            IpAddr::V4(_) => self.kind == A,
            IpAddr::V6(_) => self.kind == AAAA,
        };
        let mut answers: Vec<&IpAddr> = response.addrs.iter().filter(fitting).collect();
        if response.truncated {
            answers.clear();
        }
        // Without an answer, the start of authority tells the asker that this is meant.
        let authority = answers.is_empty() && !response.truncated && matches!(response.code, 0 | 3);
        let mut flags = QR | (self.flags & (OPCODE | RD)) | RA | u16::from(response.code & 0xf);
        if response.truncated {
            flags |= TC;
        }
        let counts = [1, answers.len(), usize::from(authority), 0];
        let mut out = Vec::with_capacity(512);
        out.extend(self.id.to_be_bytes());
        out.extend(flags.to_be_bytes());
        for count in counts {
            out.extend(u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes());
        }
        out.extend(&self.raw);
        for ip in answers {
            record(&mut out, ip, response.ttl);
        }
        if authority {
            out.extend(SOA);
        }
        out
    }
}

fn record(out: &mut Vec<u8>, ip: &IpAddr, ttl: u32) {
    let (kind, data) = match ip {
        IpAddr::V4(ip) => (A, ip.octets().to_vec()),
        IpAddr::V6(ip) => (AAAA, ip.octets().to_vec()),
    };
    // A pointer to the name in the question.
    out.extend([0xc0, 12]);
    out.extend(kind.to_be_bytes());
    out.extend(IN.to_be_bytes());
    out.extend(ttl.to_be_bytes());
    out.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
    out.extend(data);
}

/// Type A.
pub(super) const A: u16 = 1;
/// Type AAAA.
pub(super) const AAAA: u16 = 28;
const IN: u16 = 1;
const HEADER: usize = 12;
const QR: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const TC: u16 = 0x0200;
const RD: u16 = 0x0100;
const RA: u16 = 0x0080;
/// The root, SOA, IN, TTL 1 s, 22 bytes: root, root, serial 1, refresh, retry, expire and minimum 1 s.
const SOA: [u8; 33] = [
    0, 0, 6, 0, 1, 0, 0, 0, 1, 0, 22, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0,
    0, 1,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            message.push(u8::try_from(label.len()).unwrap());
            message.extend(label.bytes());
        }
        message.push(0);
        message.extend(kind.to_be_bytes());
        message.extend(IN.to_be_bytes());
        message
    }

    #[test]
    fn a_question_is_read_in_lower_case_and_echoed_as_sent() {
        let question = Question::parse(&query("Redis.LAB", A)).unwrap();
        assert_eq!((question.name.as_str(), question.kind), ("redis.lab", A));
        let reply = question.encode(&Response {
            code: 0,
            truncated: false,
            ttl: 7,
            addrs: vec!["10.1.2.3".parse().unwrap(), "::1".parse().unwrap()],
        });
        assert!(reply.windows(5).any(|part| part == b"Redis"));
        assert!(reply.ends_with(&[0, 0, 0, 7, 0, 4, 10, 1, 2, 3]));
        assert_eq!(&reply[4..12], &[0, 1, 0, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn no_prefix_of_a_query_panics() {
        let whole = query("a.very.long.name.indeed", AAAA);
        for end in 0..whole.len() {
            assert_eq!(Question::parse(&whole[..end]), None);
        }
        assert_eq!(Question::parse(&[0xff; 64]), None);
    }
}
