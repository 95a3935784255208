//! Workload API addresses: the rule that is broken, and the form that was probably meant.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::SocketAddr;
use std::path::PathBuf;

use mantlet_identity::{ENDPOINT_ENV, Endpoint, EndpointError};
use proptest::prelude::*;

#[track_caller]
fn unix(address: &str, path: &str) {
    assert_eq!(Endpoint::parse(address), Ok(Endpoint::Unix(PathBuf::from(path))));
}

#[track_caller]
fn tcp(address: &str, socket: &str) {
    assert_eq!(Endpoint::parse(address), Ok(Endpoint::Tcp(socket.parse::<SocketAddr>().unwrap())));
}

/// Refused, and the text of the refusal holds all of these.
#[track_caller]
fn refused(address: &str, says: &[&str]) {
    let text = Endpoint::parse(address).expect_err(address).to_string();
    for part in says {
        assert!(text.contains(part), "{address}: {text}");
    }
    // What is suggested is itself an address.
    if let Some((_, form)) = text.split_once("write ") {
        assert!(Endpoint::parse(form).is_ok(), "{address}: {text}");
    }
}

#[test]
fn e01_e02_e05_absolute_paths_are_unix_sockets_in_each_spelling() {
    unix("unix:///path/to/endpoint.sock", "/path/to/endpoint.sock");
    unix("unix:/run/spire/agent.sock", "/run/spire/agent.sock");
    unix("UNIX:///tmp/agent.sock", "/tmp/agent.sock");
    unix("unix:///run/a%20b.sock", "/run/a b.sock");
}

#[test]
fn e03_e04_addresses_with_a_port_are_tcp_sockets() {
    tcp("tcp://127.0.0.1:8000", "127.0.0.1:8000");
    tcp("tcp://[::1]:8000", "[::1]:8000");
    tcp("TCP://127.0.0.1:65535", "127.0.0.1:65535");
}

#[test]
fn e06_the_empty_string_is_refused() {
    refused("", &["empty", "unix:///path/to/agent.sock"]);
}

#[test]
fn e07_a_path_without_a_scheme_is_refused_and_the_unix_form_is_shown() {
    refused("/tmp/agent.sock", &["no scheme", "write unix:///tmp/agent.sock"]);
}

#[test]
fn e08_neither_scheme_nor_path_is_refused() {
    refused("blah", &["no scheme"]);
    refused("127.0.0.1:8000", &["no scheme", "write tcp://127.0.0.1:8000"]);
    refused("localhost:8000", &["no scheme", "write tcp://127.0.0.1:8000"]);
    refused("[::1]:8000", &["no scheme", "write tcp://[::1]:8000"]);
    refused(":8000", &["no scheme"]);
}

#[test]
fn e09_e10_other_schemes_are_refused() {
    refused("blah:///foo", &["\"blah\"", "unix:///path", "tcp://IP:PORT"]);
    refused("http://127.0.0.1:8000", &["\"http\""]);
    refused("https://127.0.0.1:8000", &["\"https\""]);
    refused("npipe:agent", &["\"npipe\""]);
}

#[test]
fn e11_e12_a_unix_address_without_a_socket_is_refused() {
    refused("unix:", &["path of a socket"]);
    refused("unix://", &["path of a socket"]);
    refused("unix:///", &["path of a socket"]);
}

#[test]
fn e13_a_relative_path_is_refused() {
    refused("unix:opaque", &["absolute path", "write unix:///opaque"]);
}

#[test]
fn e14_e15_two_slashes_make_the_first_directory_a_host() {
    refused("unix://foo", &["no host", "\"foo\"", "write unix:///foo"]);
    refused("unix://tmp/agent.sock", &["no host", "\"tmp\"", "write unix:///tmp/agent.sock"]);
}

#[test]
fn e16_e28_user_information_is_refused() {
    refused("unix://john:doe@foo/path", &["user info"]);
    refused("tcp://john:doe@1.2.3.4:5/path", &["user info"]);
}

#[test]
fn e17_e18_e26_e27_queries_and_fragments_are_refused_even_empty() {
    refused("unix:///foo?whatever", &["'?'", "write unix:///foo"]);
    refused("unix:///foo#whatever", &["'#'", "write unix:///foo"]);
    refused("unix:///foo?", &["'?'"]);
    refused("unix:///foo#", &["'#'"]);
    refused("tcp://1.2.3.4:5?whatever", &["'?'", "write tcp://1.2.3.4:5"]);
    refused("tcp://1.2.3.4:5#whatever", &["'#'", "write tcp://1.2.3.4:5"]);
}

#[test]
fn e19_e20_e21_a_tcp_address_without_a_host_is_refused() {
    refused("tcp:opaque", &["IP address and a port"]);
    refused("tcp:127.0.0.1:8000", &["IP address and a port"]);
    refused("tcp://", &["IP address and a port"]);
    refused("tcp:///test", &["IP address and a port"]);
    refused("tcp://[::1", &["IP address and a port"]);
    refused("tcp://::1:8000", &["IP address"]);
}

#[test]
fn e22_e29_a_port_is_mandatory_and_in_range() {
    refused("tcp://1.2.3.4", &["port of 1 to 65535", "write tcp://1.2.3.4:8000"]);
    refused("tcp://[::1]", &["port", "write tcp://[::1]:8000"]);
    refused("tcp://127.0.0.1:", &["port"]);
    refused("tcp://127.0.0.1:70000", &["port of 1 to 65535"]);
    refused("tcp://127.0.0.1:0", &["port"]);
    refused("tcp://127.0.0.1:+80", &["port"]);
}

#[test]
fn e23_e24_names_are_refused_and_the_loopback_address_is_shown() {
    refused("tcp://foo:9000", &["\"foo\"", "names are not allowed", "write tcp://127.0.0.1:9000"]);
    refused("tcp://localhost:8000", &["\"localhost\"", "write tcp://127.0.0.1:8000"]);
}

#[test]
fn e25_a_path_after_the_port_is_refused() {
    refused("tcp://127.0.0.1:8000/foo", &["no path", "write tcp://127.0.0.1:8000"]);
    refused("tcp://127.0.0.1:8000/", &["no path"]);
}

#[test]
fn e30_an_address_of_another_machine_is_accepted_with_a_warning() {
    let warning = Endpoint::parse("tcp://10.0.0.5:8000").unwrap().warning().unwrap();
    assert!(warning.contains("without TLS"), "{warning}");
    for local in ["tcp://127.0.0.1:8000", "tcp://[::1]:8000", "tcp://169.254.1.1:80", "tcp://[fe80::1]:80"] {
        assert_eq!(Endpoint::parse(local).unwrap().warning(), None, "{local}");
    }
    assert_eq!(Endpoint::parse("unix:///a").unwrap().warning(), None);
}

#[test]
fn e31_addresses_to_listen_at_are_refused() {
    refused("tcp://0.0.0.0:8000", &["listen at", "write tcp://127.0.0.1:8000"]);
    refused("tcp://[::]:8000", &["listen at"]);
}

#[test]
fn escapes_that_are_none_or_stand_for_nul_are_refused() {
    for bad in ["unix:///a%", "unix:///a%2", "unix:///a%zz", "unix:///a%00b", "unix:///a%é"] {
        refused(bad, &["percent-escape"]);
    }
}

#[test]
fn configuration_wins_over_the_environment_and_one_of_them_is_needed() {
    let env = |value: Option<&'static str>| {
        move |name: &str| {
            assert_eq!(name, ENDPOINT_ENV);
            value.map(Into::into)
        }
    };
    let both = Endpoint::configured_or_env(Some("unix:///a"), env(Some("unix:///b")));
    assert_eq!(both.unwrap().to_string(), "unix:///a");
    assert_eq!(Endpoint::configured_or_env(None, env(Some("unix:///b"))).unwrap().to_string(), "unix:///b");
    assert_eq!(Endpoint::configured_or_env(None, env(None)), Err(EndpointError::NotSet));
}

proptest! {
    #[test]
    fn whatever_is_given_nothing_panics_and_what_is_shown_parses_back(text in "(unix|tcp|UNIX|x)?:?/{0,3}[ -~é]{0,40}") {
        if let Ok(endpoint) = Endpoint::parse(&text)
            && !text.contains('%')
        {
            prop_assert_eq!(Endpoint::parse(&endpoint.to_string()), Ok(endpoint));
        }
    }
}
