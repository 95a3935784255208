//go:build tools

// Package ghostunnel pins the tunnel of that name for the tests of the two against each other.
package ghostunnel

import _ "github.com/ghostunnel/ghostunnel"
