//! The application in the pods of the cluster's tests: a server of every kind of protocol that tells each caller what
//! arrived, and the callers. Each caller prints one line of JSON.
//!
//! ```text
//! cluster-app serve http=8080 grpc=9090 tcp=9000 banner=9001 [linger=5] [door=9002, open while it is well]
//! cluster-app get URL [METHOD]          cluster-app expect STATUS get URL
//! cluster-app load URL REQUESTS CONNECTIONS PAUSE-MS (0 requests: until `cluster-app stop`)
//! cluster-app grpc HOST:PORT PATH       cluster-app websocket HOST:PORT PATH
//! cluster-app tcp HOST:PORT TEXT        cluster-app banner HOST:PORT
//! cluster-app hold URL                  cluster-app idle HOST:PORT COUNT SECONDS
//! cluster-app changes URL
//! cluster-app exit CODE                 cluster-app healthy|unhealthy|check
//! ```
#![allow(clippy::print_stdout)]

mod call;
mod serve;

use std::process::ExitCode;

/// Where it is, the application says that it is not well.
const UNHEALTHY: &str = "/tmp/unhealthy";
/// Where it is, a load without a number ends.
const STOP: &str = "/tmp/stop";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let answer = match words.as_slice() {
        ["serve", listeners @ ..] => {
            serve::serve(listeners).await;
            return ExitCode::SUCCESS;
        }
        ["exit", code] => return ExitCode::from(code.parse::<u8>().expect("a code")),
        ["healthy"] => {
            let _ = std::fs::remove_file(UNHEALTHY);
            return ExitCode::SUCCESS;
        }
        ["unhealthy"] => {
            std::fs::write(UNHEALTHY, "").expect("a folder to write to");
            return ExitCode::SUCCESS;
        }
        ["check"] => return if healthy() { ExitCode::SUCCESS } else { ExitCode::FAILURE },
        ["get", url] => call::get(url, "GET").await,
        ["get", url, method] => call::get(url, method).await,
        ["hold", url] => call::hold(url).await,
        ["changes", url] => call::changes(url).await,
        ["load", url, requests, connections, pause] => {
            call::load(url, number(requests), number(connections), number(pause)).await
        }
        ["expect", status, "get", url] => {
            let answer = call::get(url, "GET").await;
            println!("{answer}");
            let good = answer["status"] == number(status);
            return if good { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        ["stop"] => {
            std::fs::write(STOP, "").expect("a folder to write to");
            return ExitCode::SUCCESS;
        }
        ["grpc", to, path] => call::grpc(to, path).await,
        ["websocket", to, path] => call::websocket(to, path).await,
        ["tcp", to, text] => call::tcp(to, text).await,
        ["banner", to] => call::banner(to).await,
        ["idle", to, count, seconds] => call::idle(to, number(count), number(seconds)).await,
        _ => panic!("what is {words:?}?"),
    };
    println!("{answer}");
    ExitCode::SUCCESS
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}

fn healthy() -> bool {
    !std::path::Path::new(UNHEALTHY).exists()
}
