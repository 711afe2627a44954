//! Cuts the guest's output into lines as it arrives.

use std::io::Write;

use anyhow::{Context, Result};

/// The unfinished last line.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes more output and hands over the lines that are now whole.
    pub fn push(&mut self, bytes: &[u8], on: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        self.rest.extend(bytes);
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            on(&String::from_utf8_lossy(&line[..end]))?;
        }
        Ok(())
    }

    /// Hands over a last line without a newline.
    pub fn finish(&mut self, on: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        if self.rest.is_empty() {
            return Ok(());
        }
        let line = std::mem::take(&mut self.rest);
        on(&String::from_utf8_lossy(&line))
    }
}

/// Passes bytes on to our stderr.
pub fn to_stderr(bytes: &[u8]) -> Result<()> {
    std::io::stderr()
        .write_all(bytes)
        .context("cannot write to stderr")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn push_pieces_of_lines_come_out_whole() {
        let mut got = Vec::new();
        let mut lines = Lines::default();
        let mut on = |line: &str| {
            got.push(line.to_owned());
            Ok(())
        };
        for piece in ["st", "art a\nok", " a 1\n\nlast"] {
            lines.push(piece.as_bytes(), &mut on).unwrap();
        }
        lines.finish(&mut on).unwrap();
        lines.finish(&mut on).unwrap();
        assert_eq!(got, ["start a", "ok a 1", "", "last"]);
    }
}
