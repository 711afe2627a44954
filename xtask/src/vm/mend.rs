//! Mends what emulation gets wrong when a kernel patches its own code.
//!
//! Attaching a scheduler flips static keys: the kernel writes a breakpoint over an instruction,
//! then its tail, then its first byte, with all CPUs told in between. QEMU drops the translation
//! of such code *before* the store, so another virtual CPU can translate the breakpoint once more
//! in that moment and run it long after it is gone; the kernel finds no reason for the trap and
//! panics ("Oops: int3"). Real CPUs do not.
//!
//! So we sit on QEMU's gdb port with one breakpoint, on the kernel's `die()`. When it reports a
//! trap whose byte in memory is no breakpoint any more, we write that byte again, which drops the
//! stale translation, and let the guest return to the instruction as if nothing had happened.
//! Everything else that kills a kernel goes its way.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::proc::say;

/// Offset of `ip` in the `struct pt_regs` of x86-64: fifteen registers and `orig_ax` come first.
const PT_REGS_IP: u64 = 16 * 8;
const INT3: u8 = 0xcc;

/// Numbers of registers in gdb's order for x86-64.
const RSI: usize = 4;
const RDI: usize = 5;
const RSP: usize = 7;
const RIP: usize = 16;

/// Watches the guest behind the gdb port `socket`, whose `die` is at `die`, for as long as it
/// lives.
pub fn spawn(socket: &Path, die: u64) {
    let socket = socket.to_owned();
    std::thread::spawn(move || {
        let ended = UnixStream::connect(&socket)
            .context("cannot connect")
            .and_then(|stream| {
                let mut gdb = Gdb { stream };
                // The guest must not be left standing.
                gdb.watch(die).inspect_err(|_| drop(gdb.let_go(die)))
            });
        if let Err(err) = ended {
            say(format_args!(
                "no more mending of stale breakpoints: {err:#}; the guest may panic (int3)"
            ));
        }
    });
}

/// A session with QEMU's gdb port. The guest stands still until [`Gdb::resume`].
#[derive(Debug)]
struct Gdb<S> {
    stream: S,
}

impl<S: Read + Write> Gdb<S> {
    /// Ends when the guest does, or at the first death that is not ours to mend.
    fn watch(&mut self, die: u64) -> Result<()> {
        self.expect_ok(&format!("Z1,{die:x},1"))?;
        while self.resume()? {
            if !self.mend().context("cannot mend a stale breakpoint")? {
                return self.let_go(die);
            }
        }
        Ok(())
    }

    /// From here on the guest runs by itself. Waits for its end: QEMU loses what it has not read
    /// when we close.
    fn let_go(&mut self, die: u64) -> Result<()> {
        self.expect_ok(&format!("z1,{die:x},1"))?;
        self.resume().map(drop)
    }

    /// Lets the guest run until it dies of something (true) or is gone (false).
    fn resume(&mut self) -> Result<bool> {
        self.send("c")?;
        loop {
            match self.receive() {
                Ok(stop) if stop.starts_with('T') || stop.starts_with('S') => return Ok(true),
                Ok(stop) if stop.starts_with('W') || stop.starts_with('X') => return Ok(false),
                Ok(_) => {}
                // The guest was killed or has powered off.
                Err(_) => return Ok(false),
            }
        }
    }

    /// The guest stands at the first instruction of `die(const char *what, struct pt_regs *, ..)`.
    fn mend(&mut self) -> Result<bool> {
        let mut regs = self.registers()?;
        if self.memory(regs[RDI], 5)? != b"int3\0" {
            return Ok(false);
        }
        let ip_at = regs[RSI] + PT_REGS_IP;
        let site = self.word(ip_at)?.wrapping_sub(1);
        let byte = self.memory(site, 1)?[0];
        if byte == INT3 {
            return Ok(false);
        }
        self.expect_ok(&format!("M{site:x},1:{byte:02x}"))?;
        self.expect_ok(&format!("M{ip_at:x},8:{}", hex(&site.to_le_bytes())))?;
        // As `ret` would: the caller goes on as after a trap that was handled.
        regs[RIP] = self.word(regs[RSP])?;
        regs[RSP] += 8;
        self.set_registers(&regs)?;
        say(format_args!(
            "mended: the emulation ran a stale breakpoint at {site:#x}"
        ));
        Ok(true)
    }

    fn registers(&mut self) -> Result<Vec<u64>> {
        let bytes = unhex(&self.ask("g")?)?;
        let words: Vec<u64> = bytes.chunks_exact(8).take(RIP + 1).map(le_word).collect();
        if words.len() <= RIP {
            bail!("only {} registers in the answer", words.len());
        }
        Ok(words)
    }

    /// Sets the first registers; QEMU leaves those alone that the packet does not reach.
    fn set_registers(&mut self, regs: &[u64]) -> Result<()> {
        let values: String = regs.iter().map(|reg| hex(&reg.to_le_bytes())).collect();
        self.expect_ok(&format!("G{values}"))
    }

    fn word(&mut self, at: u64) -> Result<u64> {
        Ok(le_word(&self.memory(at, 8)?))
    }

    fn memory(&mut self, at: u64, len: usize) -> Result<Vec<u8>> {
        let bytes = unhex(&self.ask(&format!("m{at:x},{len:x}"))?)?;
        if bytes.len() != len {
            bail!("cannot read {len} bytes of the guest at {at:#x}");
        }
        Ok(bytes)
    }

    fn expect_ok(&mut self, packet: &str) -> Result<()> {
        match self.ask(packet)?.as_str() {
            "OK" => Ok(()),
            other => bail!("{packet}: answered {other:?}, not OK"),
        }
    }

    fn ask(&mut self, packet: &str) -> Result<String> {
        self.send(packet)?;
        loop {
            let answer = self.receive()?;
            // That it stopped because we connected comes unasked.
            if !answer.starts_with('T') {
                return Ok(answer);
            }
        }
    }

    fn send(&mut self, packet: &str) -> Result<()> {
        let framed = format!("${packet}#{:02x}", checksum(packet.as_bytes()));
        Ok(self.stream.write_all(framed.as_bytes())?)
    }

    /// The next packet, acknowledged; the acknowledgements of ours in between are skipped.
    fn receive(&mut self) -> Result<String> {
        while self.byte()? != b'$' {}
        let mut packet = Vec::new();
        loop {
            match self.byte()? {
                b'#' => break,
                byte => packet.push(byte),
            }
        }
        let sum = [self.byte()?, self.byte()?];
        if unhex(std::str::from_utf8(&sum)?)? != [checksum(&packet)] {
            bail!("a packet with a wrong checksum");
        }
        self.stream.write_all(b"+")?;
        Ok(String::from_utf8(packet)?)
    }

    fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte)?;
        Ok(byte[0])
    }
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn le_word(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits = text.as_bytes();
    let pairs = digits.chunks(2).map(std::str::from_utf8);
    pairs
        .map(|pair| u8::from_str_radix(pair?, 16).with_context(|| format!("not hex: {text}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::thread::JoinHandle;

    use super::*;

    const DIE: u64 = 0xffff_ffff_8100_0000;
    const WHAT: u64 = 0x1000;
    const REGS: u64 = 0x2000;
    const STACK: u64 = 0x3000;
    const SITE: u64 = 0x4000;

    /// What the guest was asked, and its memory in the end.
    type Guest = (Vec<String>, HashMap<u64, Vec<u8>>);

    /// A guest that stops at `die` once for each of `deaths` (message, byte at the site).
    fn guest(stream: UnixStream, deaths: Vec<(&'static [u8], u8)>) -> JoinHandle<Guest> {
        std::thread::spawn(move || {
            let mut log = Vec::new();
            let mut memory = HashMap::new();
            let mut deaths = deaths.into_iter();
            let mut side = Gdb { stream };
            while let Ok(packet) = side.receive() {
                let answer = match packet.as_bytes()[0] {
                    b'c' => match deaths.next() {
                        None => "W00".to_owned(),
                        Some((what, byte)) => {
                            memory.insert(WHAT, what.to_vec());
                            memory.insert(REGS + PT_REGS_IP, (SITE + 1).to_le_bytes().to_vec());
                            memory.insert(SITE, vec![byte]);
                            memory.insert(STACK, 0xcafe_u64.to_le_bytes().to_vec());
                            "T05thread:01;".to_owned()
                        }
                    },
                    b'g' => {
                        let mut regs = [0u64; 24];
                        (regs[RDI], regs[RSI], regs[RSP], regs[RIP]) = (WHAT, REGS, STACK, DIE);
                        regs.iter().map(|r| hex(&r.to_le_bytes())).collect()
                    }
                    b'm' => {
                        let at = packet[1..].split(',').next().unwrap();
                        hex(&memory[&u64::from_str_radix(at, 16).unwrap()])
                    }
                    b'M' => {
                        let (at, bytes) = packet[1..].split_once(':').unwrap();
                        let at = at.split(',').next().unwrap();
                        let at = u64::from_str_radix(at, 16).unwrap();
                        memory.insert(at, unhex(bytes).unwrap());
                        "OK".to_owned()
                    }
                    _ => "OK".to_owned(),
                };
                log.push(packet);
                // One that let go does not wait for an answer.
                let _ = side.send(&answer);
            }
            (log, memory)
        })
    }

    fn watch(deaths: &[(&'static [u8], u8)]) -> Guest {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let guest = guest(theirs, deaths.to_vec());
        Gdb { stream: ours }.watch(DIE).unwrap();
        guest.join().unwrap()
    }

    #[test]
    fn mend_stale_breakpoint_returns_to_the_instruction() {
        let (log, memory) = watch(&[(b"int3\0", 0xe9), (b"int3\0", 0x66)]);
        assert_eq!(memory[&(REGS + PT_REGS_IP)], SITE.to_le_bytes());
        assert!(log.contains(&format!("M{SITE:x},1:66")), "{log:?}");
        let mut regs = [0; RIP + 1];
        (regs[RDI], regs[RSI], regs[RSP], regs[RIP]) = (WHAT, REGS, STACK + 8, 0xcafe);
        let set: String = regs.iter().map(|r: &u64| hex(&r.to_le_bytes())).collect();
        let set = format!("G{set}");
        assert_eq!(log.iter().filter(|packet| **packet == set).count(), 2);
    }

    #[test]
    fn mend_leaves_real_deaths_alone() {
        for death in [(&b"Oops\0"[..], 0xe9), (b"int3\0", INT3)] {
            let (log, memory) = watch(&[death]);
            assert_eq!(memory[&(REGS + PT_REGS_IP)], (SITE + 1).to_le_bytes());
            assert_eq!(log[log.len() - 2], format!("z1,{DIE:x},1"));
            assert_eq!(log.last().unwrap(), "c");
        }
    }

    #[test]
    fn hex_there_and_back() {
        assert_eq!(hex(&[0, 0xff, 0x1a]), "00ff1a");
        assert_eq!(unhex("00ff1a").unwrap(), [0, 0xff, 0x1a]);
        assert!(unhex("0g").is_err() && unhex("é").is_err());
        assert_eq!(le_word(&0x1234_5678_u64.to_le_bytes()), 0x1234_5678);
    }
}
