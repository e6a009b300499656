//go:build tools

// Names the program, so that go.sum holds the digest of every module it is built from.
package tools

import _ "github.com/versity/versitygw/cmd/versitygw"
