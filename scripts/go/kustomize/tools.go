//go:build tools

// Names the program, so that go.sum holds the digest of every module it is built from.
package tools

import _ "sigs.k8s.io/kustomize/kustomize/v5"
