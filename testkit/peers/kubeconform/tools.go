//go:build tools

// Package kubeconform pins the program that checks manifests against the API server's schemas.
package kubeconform

import _ "github.com/yannh/kubeconform/cmd/kubeconform"
