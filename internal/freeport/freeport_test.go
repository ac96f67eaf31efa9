package freeport_test

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/freeport"
)

// TestNoConnectionGetsThePort: what the kernel gives by itself is not among the ports found here.
func TestNoConnectionGetsThePort(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		t.Skip("only Linux says which ports connections get:", err)
	}
	lowest, err := strconv.Atoi(strings.Fields(string(text))[0])
	if err != nil {
		t.Fatal(err)
	}
	if lowest < 32768 {
		t.Skipf("this machine gives connections the ports from %d on, which is not Linux's setting", lowest)
	}
	for range 1000 {
		_, text, err := net.SplitHostPort(freeport.For(t))
		if err != nil {
			t.Fatal(err)
		}
		if port, err := strconv.Atoi(text); err != nil || port >= lowest {
			t.Fatalf("port %s, and connections get those from %d on", text, lowest)
		}
	}
}

// TestNoPortIsFoundTwice: a program need not listen before the next port is looked for, in whichever goroutine.
func TestNoPortIsFoundTwice(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	found := map[string]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				address, err := freeport.Address(t.Context())
				mu.Lock()
				if err != nil || found[address] {
					t.Errorf("%q, %v: error, or found before", address, err)
				}
				found[address] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// TestATakenPortIsPassedOver has every port taken that it finds, and finds others.
func TestATakenPortIsPassedOver(t *testing.T) {
	t.Parallel()
	for range 50 {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", freeport.For(t))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
}

func TestAContextThatHasEnded(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if address, err := freeport.Address(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%q, %v", address, err)
	}
}
