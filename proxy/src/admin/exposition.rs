//! Classic Prometheus text made from OpenMetrics.
//!
//! The encoder writes OpenMetrics only. Older parsers, promtool's linter and people with curl want the classic
//! format 0.0.4, which names counters and infos differently and knows neither units, exemplars nor an end mark.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, header::ACCEPT_ENCODING};

/// What an answer to a scrape is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4.
    Classic,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

/// A family whose metadata lines are being read.
#[derive(Default)]
struct Family<'a> {
    name: &'a str,
    help: Option<&'a str>,
    kind: Option<&'a str>,
    written: bool,
}

// === impl Format ===

impl Format {
    /// The best of both for an `Accept` header: OpenMetrics only if it is asked for by name and not less wanted.
    #[must_use]
    pub fn negotiate(accept: Option<&str>) -> Self {
        let mut open_metrics = 0;
        let mut classic = 0;
        for range in accept.unwrap_or("text/plain").split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let mut quality = 1000;
            let mut version = None;
            for (name, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
                match name.trim() {
                    "q" => quality = thousandths(value),
                    "version" => version = Some(value.trim_matches('"')),
                    _ => {}
                }
            }
            match media {
                "application/openmetrics-text" if version.is_none_or(|version| version == "1.0.0") => {
                    open_metrics = quality.max(open_metrics);
                }
                "text/plain" if version.is_none_or(|version| version == "0.0.4") => {
                    classic = quality.max(classic)
                }
                _ => {}
            }
        }
        match open_metrics > 0 && open_metrics >= classic {
            true => Self::OpenMetrics,
            false => Self::Classic,
        }
    }

    /// The `content-type` of the answer.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The answer's text, from the encoder's.
    #[must_use]
    pub fn render(self, open_metrics: String) -> String {
        match self {
            Self::Classic => classic(&open_metrics),
            Self::OpenMetrics => open_metrics,
        }
    }
}

/// Whether `Accept-Encoding` wants gzip (RFC 9110, 12.5.3).
pub(super) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    codings.flat_map(|value| value.split(',')).any(|coding| {
        let (name, parameter) = coding.split_once(';').unwrap_or((coding, ""));
        let quality = parameter.trim().strip_prefix("q=").map_or(1000, thousandths);
        name.trim().eq_ignore_ascii_case("gzip") && quality > 0
    })
}

/// A scrape, packed: a tenth of the text.
pub(super) fn gzip(text: &str) -> Option<Bytes> {
    let packed = || -> io::Result<Vec<u8>> {
        let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::fast());
        encoder.write_all(text.as_bytes())?;
        encoder.finish()
    };
    packed().ok().map(Bytes::from)
}

/// A quality value (RFC 9110 12.4.2) in thousandths; anything strange wants nothing.
fn thousandths(value: &str) -> u32 {
    match value.trim().split_once('.') {
        None if value.trim() == "1" => 1000,
        Some(("1", _)) => 1000,
        Some(("0", digits)) => {
            let padded = digits.bytes().chain(*b"000").take(3);
            padded.fold(0, |sum, digit| sum * 10 + u32::from(digit.wrapping_sub(b'0').min(9)))
        }
        _ => 0,
    }
}

/// Rewrites OpenMetrics text as classic text.
#[must_use]
pub fn classic(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut family = Family::default();
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name)) => {
                family.enter(name);
                family.help = Some(words.next().unwrap_or_default());
            }
            (Some("#"), Some("TYPE"), Some(name)) => {
                family.enter(name);
                family.kind = words.next();
            }
            (Some("#"), ..) | (None, ..) => {}
            _ if line.is_empty() => {}
            _ => family.sample(line, &mut text),
        }
    }
    text
}

// === impl Family ===

impl<'a> Family<'a> {
    fn enter(&mut self, name: &'a str) {
        if self.name != name {
            *self = Self { name, ..Self::default() };
        }
    }

    /// Writes the metadata before the first sample: only now is it all known, whatever its order was. A family
    /// without samples leaves nothing, as in the classic format.
    fn sample(&mut self, line: &str, text: &mut String) {
        let end = line.find(['{', ' ']).unwrap_or(line.len());
        let (sample_name, rest) = line.split_at_checked(end).unwrap_or((line, ""));
        if sample_name.strip_prefix(self.name) == Some("_created") {
            return;
        }
        if !self.written {
            self.metadata(text);
            self.written = true;
        }
        let _ = writeln!(text, "{sample_name}{}", without_exemplar(rest));
    }

    fn metadata(&self, text: &mut String) {
        let (suffix, kind) = match self.kind {
            Some("counter") => ("_total", "counter"),
            Some("info") => ("_info", "gauge"),
            Some("stateset") => ("", "gauge"),
            Some(kind @ ("gauge" | "histogram" | "summary")) => ("", kind),
            _ => ("", "untyped"),
        };
        let name = self.name;
        if let Some(help) = self.help {
            // OpenMetrics escapes quotes in help texts, the classic format does not.
            let _ = writeln!(text, "# HELP {name}{suffix} {}", help.replace("\\\"", "\""));
        }
        if self.kind.is_some() {
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        }
    }
}

/// Labels and value of a sample: ` # {..} value` behind them is an exemplar. A label value may hold anything,
/// `} 1 # {` included, so the label set is skipped with its quotes.
fn without_exemplar(rest: &str) -> &str {
    let mut quoted = false;
    let mut escaped = false;
    let mut labels = 0;
    if rest.starts_with('{') {
        for (at, c) in rest.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                '}' if !quoted => {
                    labels = at + 1;
                    break;
                }
                _ => {}
            }
        }
    }
    let (_, value) = rest.split_at_checked(labels).unwrap_or(("", rest));
    let value = value.find(" # ").unwrap_or(value.len());
    rest.get(..labels + value).unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN_METRICS: &str = "\
# HELP mantlet_http_requests Requests.
# TYPE mantlet_http_requests counter
mantlet_http_requests_total{peer=\"a} 1 # {x\",code=\"200\"} 5 # {trace_id=\"4bf9\"} 1.0 1520879607.789
mantlet_http_requests_created{peer=\"a\"} 1520430000.123
# HELP mantlet_build What this is: \\\"x\\\".
# TYPE mantlet_build info
mantlet_build_info{version=\"0.1.0\"} 1
# HELP mantlet_http_request_duration_seconds Time.
# TYPE mantlet_http_request_duration_seconds histogram
# UNIT mantlet_http_request_duration_seconds seconds
mantlet_http_request_duration_seconds_sum 0.5
mantlet_http_request_duration_seconds_count 1
mantlet_http_request_duration_seconds_bucket{le=\"+Inf\"} 1 # {trace_id=\"4bf9\"} 0.5
# HELP mantlet_unused Nothing yet.
# TYPE mantlet_unused counter
# HELP mantlet_ready Ready.
# TYPE mantlet_ready gauge
mantlet_ready 1
# TYPE mantlet_strange unknown
mantlet_strange 2
# EOF
";

    const CLASSIC: &str = "\
# HELP mantlet_http_requests_total Requests.
# TYPE mantlet_http_requests_total counter
mantlet_http_requests_total{peer=\"a} 1 # {x\",code=\"200\"} 5
# HELP mantlet_build_info What this is: \"x\".
# TYPE mantlet_build_info gauge
mantlet_build_info{version=\"0.1.0\"} 1
# HELP mantlet_http_request_duration_seconds Time.
# TYPE mantlet_http_request_duration_seconds histogram
mantlet_http_request_duration_seconds_sum 0.5
mantlet_http_request_duration_seconds_count 1
mantlet_http_request_duration_seconds_bucket{le=\"+Inf\"} 1
# HELP mantlet_ready Ready.
# TYPE mantlet_ready gauge
mantlet_ready 1
# TYPE mantlet_strange untyped
mantlet_strange 2
";

    #[test]
    fn classic_text_names_types_as_old_parsers_expect_and_loses_exemplars_units_and_end() {
        assert_eq!(classic(OPEN_METRICS), CLASSIC);
    }

    #[test]
    fn a_hostile_label_value_stays_inside_its_quotes() {
        for value in ["a\\\\", "\\\"} 9 # {", "} 1 # {t=\\\"", " # "] {
            let line = format!("m{{peer=\"{value}\"}} 7");
            let text = format!("# TYPE m gauge\n{line} # {{t=\"x\"}} 1\n");
            assert_eq!(classic(&text), format!("# TYPE m gauge\n{line}\n"), "{value}");
        }
    }

    #[test]
    fn gzip_is_given_to_who_asks_for_it() {
        let accepts = |value: &str| {
            accepts_gzip(&HeaderMap::from_iter([(ACCEPT_ENCODING, value.parse().expect("a value"))]))
        };
        for value in ["gzip", "deflate, GZIP;q=0.5", "br;q=1.0, gzip;q=0.8, *;q=0.1"] {
            assert!(accepts(value), "{value}");
        }
        for value in ["", "identity", "gzip;q=0", "x-gzip", "*"] {
            assert!(!accepts(value), "{value}");
        }
        let packed = gzip(&OPEN_METRICS.repeat(20)).expect("packed");
        assert!(packed.len() < OPEN_METRICS.len());
        let mut text = String::new();
        io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&packed[..]), &mut text).expect("gzip");
        assert_eq!(text, OPEN_METRICS.repeat(20));
    }

    #[test]
    fn openmetrics_is_given_to_who_asks_for_it_by_name() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;\
                          version=0.0.1;q=0.4,text/plain;version=1.0.0;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for (accept, expected) in [
            (None, Format::Classic),
            (Some("*/*"), Format::Classic),
            (Some(""), Format::Classic),
            (Some("text/html,*/*;q=0.8"), Format::Classic),
            (Some(prometheus), Format::OpenMetrics),
            (Some("application/openmetrics-text"), Format::OpenMetrics),
            (Some("application/openmetrics-text; version=0.0.1"), Format::Classic),
            (Some("application/openmetrics-text;q=0"), Format::Classic),
            (Some("application/openmetrics-text;q=0.2,text/plain;q=0.9"), Format::Classic),
            (Some("application/openmetrics-text;q=NaN"), Format::Classic),
        ] {
            assert_eq!(Format::negotiate(accept), expected, "{accept:?}");
        }
    }
}
