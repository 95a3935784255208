# What operators load: rules for Prometheus, each with a case that fires and one that does not.
# That rules and dashboard name only what a sidecar measures, and that a real Prometheus answers their
# queries, is held by the test `metrics` of the sidecar.

check_observability() {
  promtool check rules deploy/observability/alerts.yaml
  (cd deploy/observability && promtool test rules ./*_test.yaml)
  python3 -m json.tool deploy/observability/dashboard.json >/dev/null
}
