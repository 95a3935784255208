module mantlet.dev/peers/crds

go 1.26.0

require (
	github.com/prometheus-operator/prometheus-operator v0.85.0
	github.com/spiffe/spire-controller-manager v0.6.3
)
