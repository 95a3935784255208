//go:build tools

// Package kubernetes pins the programs of a cluster for the tests against the real API server.
package kubernetes

import (
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kubectl"
)
