//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
)

// reload changes the certificate again and again under full load, while some of the clients also connect anew.
func reload(ctx context.Context, c *client, l *load, dir string, authority *localcert.Authority, o options) (result, int, error) {
	loaded := make(chan result, 1)
	d := max(5*o.slice, 10*time.Second)
	go func() { loaded <- c.full(ctx, l, o.workers, d, 0) }()
	var (
		others       sync.WaitGroup
		sent, failed atomic.Int64
		mu           sync.Mutex
		serials      = map[string]bool{}
		lastErr      error
	)
	begin := time.Now()
	others.Go(func() {
		var scratch bytes.Buffer
		for n := 0; time.Since(begin) < d && ctx.Err() == nil; n++ {
			t := c.transport()
			t.TLSClientConfig.VerifyConnection = func(s tls.ConnectionState) error {
				mu.Lock()
				defer mu.Unlock()
				serials[s.PeerCertificates[0].SerialNumber.String()] = true
				return nil
			}
			sent.Add(1)
			if err := c.post(ctx, t, l.bodies[n%len(l.bodies)], l.want, &scratch); err != nil {
				failed.Add(1)
				lastErr = err
			}
			t.CloseIdleConnections()
			time.Sleep(20 * time.Millisecond)
		}
	})
	for time.Since(begin) < d && ctx.Err() == nil {
		server, err := authority.Server("webhook")
		if err != nil {
			return result{}, 0, err
		}
		// Not at once, as when an administrator copies files: in between they don't belong together.
		for name, content := range map[string][]byte{"tls.crt": server.Cert, "tls.key": server.Key} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				return result{}, 0, err
			}
			time.Sleep(300 * time.Millisecond)
		}
		time.Sleep(time.Second)
	}
	others.Wait()
	r := <-loaded
	r.add(result{sent: sent.Load(), failed: failed.Load(), lastErr: lastErr})
	if len(serials) < 2 {
		return r, 0, errors.New("no new certificate was seen during the reload phase")
	}
	return r, len(serials) - 1, nil
}
