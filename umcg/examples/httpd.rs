//! A small HTTP-like server: a task per connection, written with plain blocking calls.
//!
//! Each request names a file, which the task reads with blocking reads; in kernel mode
//! the server runs another task meanwhile. Clients are ordinary threads.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;

use umcg::runtime::{Builder, yield_now};

const REQUESTS: usize = 64;

fn answer(connection: TcpStream, root: &Path) -> io::Result<()> {
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let name = request.strip_prefix("GET /").unwrap_or("").trim();
    let allowed = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let file = allowed.then(|| File::open(root.join(name)).ok()).flatten();
    let mut connection = connection;
    let Some(mut file) = file else {
        return connection.write_all(b"404\n");
    };
    let mut body = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let length = file.read(&mut piece)?;
        if length == 0 {
            break;
        }
        body.extend_from_slice(&piece[..length]);
        // Long files do not keep short ones waiting.
        yield_now();
    }
    writeln!(connection, "200 {}", body.len())?;
    connection.write_all(&body)
}

fn ask(port: u16, name: &str) -> io::Result<(String, Vec<u8>)> {
    let mut connection = TcpStream::connect(("127.0.0.1", port))?;
    writeln!(connection, "GET /{name}")?;
    let mut reader = BufReader::new(connection);
    let (mut status, mut body) = (String::new(), Vec::new());
    reader.read_line(&mut status)?;
    reader.read_to_end(&mut body)?;
    Ok((status.trim().into(), body))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root: PathBuf = std::env::temp_dir().join(format!("umcg-httpd-{}", std::process::id()));
    std::fs::create_dir_all(&root)?;
    for size in [1usize, 5_000, 100_000] {
        std::fs::write(root.join(format!("f{size}")), vec![b'x'; size])?;
    }
    let runtime = Builder::new().servers(2).max_workers(16).build()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let clients: Vec<_> = (0..4)
        .map(|client| {
            thread::spawn(move || {
                for request in 0..REQUESTS / 4 {
                    let size = [1, 5_000, 100_000][(client + request) % 3];
                    let (status, body) = ask(port, &format!("f{size}")).expect("an answer");
                    assert_eq!(status, format!("200 {size}"));
                    assert_eq!(body.len(), size);
                }
            })
        })
        .collect();
    for _ in 0..REQUESTS {
        let (connection, _) = listener.accept()?;
        let root = root.clone();
        runtime.spawn(move || answer(connection, &root).expect("the client listens"));
    }
    for client in clients {
        client.join().expect("all answers were right");
    }
    let stats = runtime.shutdown();
    println!(
        "{} requests, {} runs, {} threads",
        stats.completed, stats.runs, stats.threads
    );
    assert_eq!(stats.completed, REQUESTS as u64);
    std::fs::remove_dir_all(&root)?;
    println!("done");
    Ok(())
}
