//go:build tools

// Package spire pins SPIRE's server and agent for the tests against the real thing.
package spire

import (
	_ "github.com/spiffe/spire/cmd/spire-agent"
	_ "github.com/spiffe/spire/cmd/spire-server"
)
