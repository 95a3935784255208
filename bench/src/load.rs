//! The load generator, and connections that do nothing.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What the load generator saw.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Load {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// Runs a closed loop of `connections` against a port, one request after the other on each.
/// `reconnect` makes a new connection for every request.
pub(crate) fn run(port: u16, connections: usize, duration: Duration, reconnect: bool) -> io::Result<Load> {
    let mut command = Command::new("wrk");
    command.args(["-t1", "--latency", "--timeout", "5s"]);
    command.arg(format!("-c{connections}")).arg(format!("-d{}s", duration.as_secs().max(1)));
    if reconnect {
        command.args(["-H", "Connection: close"]);
    }
    let output = command.arg(format!("http://127.0.0.1:{port}/")).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).ok_or_else(|| {
        io::Error::other(format!(
            "wrk on port {port} said: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        ))
    })
}

/// Processor time of children that have ended and were waited for; counted by the kernel in 10 ms.
pub(crate) fn finished_children() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field, the name in parentheses, may hold blanks.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<u64> = after_name.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    let at = |index: usize| fields.get(index).copied().unwrap_or(0);
    Duration::from_millis(10 * (at(13) + at(14)))
}

/// Opens connections that send one request each, read its answer, and then stay open in silence.
pub(crate) fn idle(port: u16, count: usize) -> io::Result<Vec<TcpStream>> {
    (0..count).map(|_| one_request(port)).collect()
}

fn one_request(port: u16) -> io::Result<TcpStream> {
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench.local\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    // The body is 128 times the same letter, which no header ends with.
    while !answer.ends_with(&[b'x'; 128]) {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => answer.extend_from_slice(&buffer[..read]),
        }
    }
    Ok(stream)
}

fn parse(text: &str) -> Option<Load> {
    let line = |key: &str| text.lines().map(str::trim).find_map(|line| line.strip_prefix(key)).map(str::trim);
    let requests = text
        .lines()
        .map(str::trim)
        .find_map(|line| line.split_once(" requests in "))
        .and_then(|(count, _)| count.parse().ok())?;
    let socket_errors: u64 = line("Socket errors:").map_or(0, |rest| {
        rest.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<u64>().ok()).sum()
    });
    let refused: u64 = line("Non-2xx or 3xx responses:").and_then(|count| count.parse().ok()).unwrap_or(0);
    Some(Load {
        requests,
        errors: socket_errors + refused,
        per_second: line("Requests/sec:")?.parse().ok()?,
        p50_us: microseconds(line("50%")?)?,
        p99_us: microseconds(line("99%")?)?,
    })
}

fn microseconds(text: &str) -> Option<f64> {
    let at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(at);
    let number: f64 = number.parse().ok()?;
    match unit {
        "us" => Some(number),
        "ms" => Some(number * 1e3),
        "s" => Some(number * 1e6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "Running 5s test @ http://127.0.0.1:15001/
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   703.89us  228.43us   6.64ms   90.66%
  Latency Distribution
     50%  661.00us
     75%  752.00us
     90%    0.86ms
     99%    1.57ms
  113478 requests in 5.10s, 31.82MB read
  Socket errors: connect 0, read 3, write 0, timeout 1
  Non-2xx or 3xx responses: 2
Requests/sec:  22250.65
Transfer/sec:      6.24MB
";

    #[test]
    fn a_report_of_wrk_is_read() {
        let load = parse(REPORT).unwrap();
        assert_eq!(
            load,
            Load { requests: 113_478, errors: 6, per_second: 22_250.65, p50_us: 661.0, p99_us: 1570.0 }
        );
    }

    #[test]
    fn anything_else_is_not() {
        assert_eq!(parse("unable to connect to 127.0.0.1:1"), None);
    }
}
