//! Configuration files of SPIRE's server and agent.

use std::path::Path;

/// What a test wants to be different from the plain server and agent.
#[derive(Clone, Debug)]
pub struct SpireOptions {
    /// Trust domain.
    pub trust_domain: String,
    /// `ca_key_type` of the server.
    pub ca_key_type: String,
    /// `workload_x509_svid_key_type` of the agent.
    pub svid_key_type: String,
    /// PEM files of certificate and key of an upstream authority.
    pub upstream: Option<(String, String)>,
    /// Port of the server's own bundle endpoint (`https_spiffe`).
    pub bundle_endpoint: Option<u16>,
    /// Streams that one workload may open per second (`experimental.ratelimit.fetch_x509_svid`).
    pub rate_limit: Option<u32>,
}

pub(super) struct Places<'a> {
    pub(super) dir: &'a Path,
    pub(super) port: u16,
}

// === impl SpireOptions ===

impl SpireOptions {
    /// A plain server and agent of this trust domain.
    pub fn new(trust_domain: &str) -> Self {
        Self {
            trust_domain: trust_domain.to_owned(),
            ca_key_type: "ec-p256".to_owned(),
            svid_key_type: "ec-p256".to_owned(),
            upstream: None,
            bundle_endpoint: None,
            rate_limit: None,
        }
    }

    /// Synchronisation every second instead of every five: a test waits for each change.
    pub(super) fn server(&self, at: &Places<'_>) -> String {
        let Self { trust_domain, ca_key_type, .. } = self;
        let Places { dir, port } = at;
        let dir = dir.display();
        let upstream = match &self.upstream {
            None => String::new(),
            Some((certificate, key)) => format!(
                r#"UpstreamAuthority "disk" {{
    plugin_data {{
      cert_file_path = "{certificate}"
      key_file_path = "{key}"
    }}
  }}"#
            ),
        };
        let federation = match self.bundle_endpoint {
            None => String::new(),
            Some(port) => format!(
                r#"federation {{
    bundle_endpoint {{
      address = "127.0.0.1"
      port = {port}
      profile "https_spiffe" {{}}
    }}
  }}"#
            ),
        };
        format!(
            r#"server {{
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  trust_domain = "{trust_domain}"
  data_dir = "{dir}"
  socket_path = "{dir}/server.sock"
  log_level = "INFO"
  ca_key_type = "{ca_key_type}"
  ca_ttl = "24h"
  agent_ttl = "4h"
  default_x509_svid_ttl = "1h"
  {federation}
  experimental {{
    cache_reload_interval = "1s"
  }}
}}
plugins {{
  DataStore "sql" {{
    plugin_data {{
      database_type = "sqlite3"
      connection_string = "{dir}/server.sqlite3"
    }}
  }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "disk" {{ plugin_data {{ keys_path = "{dir}/server-keys.json" }} }}
  {upstream}
}}
"#
        )
    }

    pub(super) fn agent(&self, at: &Places<'_>) -> String {
        let Self { trust_domain, svid_key_type, .. } = self;
        let Places { dir, port } = at;
        let dir = dir.display();
        let rate_limit = match self.rate_limit {
            None => String::new(),
            Some(limit) => format!("ratelimit {{ fetch_x509_svid = {limit} }}"),
        };
        format!(
            r#"agent {{
  data_dir = "{dir}"
  trust_domain = "{trust_domain}"
  server_address = "127.0.0.1"
  server_port = "{port}"
  socket_path = "{dir}/agent.sock"
  trust_bundle_path = "{dir}/bootstrap.pem"
  log_level = "INFO"
  workload_x509_svid_key_type = "{svid_key_type}"
  experimental {{
    sync_interval = "1s"
    {rate_limit}
  }}
}}
plugins {{
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "disk" {{ plugin_data {{ directory = "{dir}" }} }}
  WorkloadAttestor "unix" {{ plugin_data {{ discover_workload_path = true }} }}
}}
"#
        )
    }
}
