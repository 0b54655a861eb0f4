//! The decoder of L0's output stream: one byte stream that carries several channels.
//!
//! DLE followed by a channel letter selects the channel of the bytes after it, DLE DLE is a literal DLE, and what
//! comes before the first DLE belongs to no channel: the firmware and the emulator talk there.

/// The byte that introduces a channel letter.
pub const DLE: u8 = 0x10;

/// What a byte of the stream belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Channel {
    /// Before the first DLE: firmware, boot loader, emulator.
    Noise,
    /// `L`: L0's log.
    Log,
    /// `C`: L1's first UART, its console.
    Console,
    /// `D`: L1's second UART, on which its user space reports.
    Data,
    /// `R`: L0's reports.
    Report,
    /// A letter this decoder does not know.
    Unknown(u8),
}

impl From<u8> for Channel {
    fn from(letter: u8) -> Self {
        match letter {
            b'L' => Self::Log,
            b'C' => Self::Console,
            b'D' => Self::Data,
            b'R' => Self::Report,
            other => Self::Unknown(other),
        }
    }
}

/// The decoder's state between two pieces of the stream.
#[derive(Debug)]
pub struct Decoder {
    channel: Channel,
    after_dle: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            channel: Channel::Noise,
            after_dle: false,
        }
    }
}

impl Decoder {
    /// Decodes the next piece of the stream and hands each run of payload bytes to `sink`. Pieces may be cut
    /// anywhere.
    pub fn feed(&mut self, mut piece: &[u8], mut sink: impl FnMut(Channel, &[u8])) {
        while let Some(&first) = piece.first() {
            if self.after_dle {
                self.after_dle = false;
                if first == DLE {
                    sink(self.channel, &[DLE]);
                } else {
                    self.channel = Channel::from(first);
                }
                piece = &piece[1..];
                continue;
            }
            let run = piece
                .iter()
                .position(|&byte| byte == DLE)
                .unwrap_or(piece.len());
            if run > 0 {
                sink(self.channel, &piece[..run]);
            }
            self.after_dle = run < piece.len();
            piece = &piece[(run + 1).min(piece.len())..];
        }
    }
}

/// Cuts one channel's bytes into lines, without their ends (LF, or CR LF as a terminal driver writes it).
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// A line longer than this is cut: an L1 that never ends its line must not take the host's memory.
    pub const LONGEST: usize = 64 * 1024;

    /// Takes bytes and hands each line that they complete to `sink`.
    pub fn feed(&mut self, bytes: &[u8], mut sink: impl FnMut(&str)) {
        for &byte in bytes {
            if byte == b'\n' || self.partial.len() == Self::LONGEST {
                self.flush(&mut sink);
            }
            if byte != b'\n' {
                self.partial.push(byte);
            }
        }
    }

    /// Hands over what is there of an unfinished line, if anything.
    pub fn finish(&mut self, mut sink: impl FnMut(&str)) {
        if !self.partial.is_empty() {
            self.flush(&mut sink);
        }
    }

    /// The unfinished line so far.
    pub fn partial(&self) -> &[u8] {
        &self.partial
    }

    fn flush(&mut self, sink: &mut impl FnMut(&str)) {
        let line = String::from_utf8_lossy(&self.partial);
        sink(line.trim_end_matches('\r'));
        self.partial.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(pieces: &[&[u8]]) -> Vec<(Channel, Vec<u8>)> {
        let mut decoder = Decoder::default();
        let mut out: Vec<(Channel, Vec<u8>)> = Vec::new();
        for piece in pieces {
            decoder.feed(piece, |channel, bytes| match out.last_mut() {
                Some((last, all)) if *last == channel => all.extend_from_slice(bytes),
                _ => out.push((channel, bytes.to_vec())),
            });
        }
        out
    }

    fn encode(parts: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (letter, bytes) in parts {
            out.extend([DLE, *letter]);
            for &byte in bytes {
                if byte == DLE {
                    out.push(DLE);
                }
                out.push(byte);
            }
        }
        out
    }

    #[test]
    fn channels_are_told_apart() {
        let stream = b"bios\x10Lhello\x10Ca\x10\x10b\x10Lworld\x10Z?";
        let expected: Vec<(Channel, Vec<u8>)> = vec![
            (Channel::Noise, b"bios".to_vec()),
            (Channel::Log, b"hello".to_vec()),
            (Channel::Console, b"a\x10b".to_vec()),
            (Channel::Log, b"world".to_vec()),
            (Channel::Unknown(b'Z'), b"?".to_vec()),
        ];
        assert_eq!(decode(&[stream]), expected);
    }

    #[test]
    fn lines_end_with_lf_or_crlf_and_an_endless_one_is_cut() {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        lines.feed(b"one\r\ntwo\n\nthr", |l| out.push(l.to_owned()));
        lines.feed(b"ee", |l| out.push(l.to_owned()));
        assert_eq!(lines.partial(), b"three");
        lines.finish(|l| out.push(l.to_owned()));
        assert_eq!(out, ["one", "two", "", "three"]);

        let mut count = 0;
        lines.feed(&vec![b'x'; 3 * Lines::LONGEST], |l| {
            assert_eq!(l.len(), Lines::LONGEST);
            count += 1;
        });
        assert_eq!(count, 2);
    }

    proptest! {
        /// What was encoded comes back, whatever it is.
        #[test]
        fn decoding_undoes_encoding(parts in prop::collection::vec((prop::sample::select(b"LCDR".to_vec()), prop::collection::vec(prop_oneof![Just(DLE), any::<u8>()], 1..20)), 0..10)) {
            let mut expected: Vec<(Channel, Vec<u8>)> = Vec::new();
            for (letter, bytes) in &parts {
                let channel = Channel::from(*letter);
                match expected.last_mut() {
                    Some((last, all)) if *last == channel => all.extend_from_slice(bytes),
                    _ => expected.push((channel, bytes.clone())),
                }
            }
            prop_assert_eq!(decode(&[&encode(&parts)]), expected);
        }

        /// Where the stream is cut into pieces does not matter.
        #[test]
        fn any_split_gives_the_same(stream in prop::collection::vec(prop_oneof![3 => Just(DLE), 2 => Just(b'L'), 2 => Just(b'C'), 5 => any::<u8>()], 0..80), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10)) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
            prop_assert_eq!(decode(&pieces), decode(&[&stream]));
        }
    }
}
