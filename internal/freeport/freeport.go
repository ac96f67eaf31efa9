// Package freeport finds loopback ports for tests, benches and the demo: of programs whose port somebody has to know before they
// listen on it, as kube-apiserver has to know that of its webhooks.
package freeport

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
)

// The ports are below those that the kernel gives to outgoing connections and to whoever listens on port 0: 32768 and above with
// Linux (ip(7), ip_local_port_range), 49152 and above elsewhere (RFC 6335, section 6). One of those may be taken again between the
// moment at which it was found and the one at which its program listens.
const first, count = 20000, 10000

// A process begins its search anywhere, so that two of them seldom look at the same place, and goes round, so that no port is found
// twice soon.
var (
	begin = rand.Uint32N(count) //nolint:gosec // nobody has to be kept from guessing it
	tried atomic.Uint32
)

// Address returns the address of a loopback port that nothing listens on, and that no other call in this process returned lately. It
// returns an error when there is none.
func Address(ctx context.Context) (string, error) {
	var err error
	for range count {
		if err = ctx.Err(); err != nil { // who listens on a loopback port does not look
			break
		}
		var l net.Listener
		address := fmt.Sprint("127.0.0.1:", first+(begin+tried.Add(1))%count)
		if l, err = new(net.ListenConfig).Listen(ctx, "tcp", address); err == nil {
			return address, l.Close()
		}
	}
	return "", fmt.Errorf("finding a free port from %d to %d: %w", first, first+count-1, err)
}

// Test is what a *testing.T can do.
type Test interface {
	Helper()
	Context() context.Context
	Fatal(args ...any)
}

// For returns an Address for a test, which fails if there is none.
func For(t Test) string {
	t.Helper()
	address, err := Address(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return address
}
