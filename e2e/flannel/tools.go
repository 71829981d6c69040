//go:build tools

// Package tools pins the network daemon that the tests run.
package tools

import _ "github.com/flannel-io/flannel"
