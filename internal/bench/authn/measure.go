//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
)

const configFile = `apiVersion: gl-k8s-integrator/v1alpha1
kind: Config
gitlab: {url: %q, caFile: %[2]s/gitlab-ca.crt, readTokenFile: %[2]s/none}
listeners:
  webhooks: {address: "127.0.0.1:0", certFile: %[2]s/tls.crt, keyFile: %[2]s/tls.key, clientCAFile: %[2]s/ca.crt}
authn: {clientIDs: [%[3]s], keyRefresh: 24h, ci: {audience: %[4]q}}
ci: {delivery: none}
`

// measure drives the whole comparison.
func measure(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "bench-authn-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	authority, err := localcert.NewAuthority("bench")
	if err != nil {
		return err
	}
	gitlab, err := newIssuer()
	if err != nil {
		return err
	}
	defer gitlab.server.Close()
	if err := writeFiles(dir, authority, gitlab); err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority.PEM)
	identity, err := authority.Client("kube-apiserver")
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(identity.Cert, identity.Key)
	if err != nil {
		return err
	}

	fmt.Fprintf(os.Stderr, "signing %d tokens\n", o.tokens)
	bodies, err := gitlab.valid(o.tokens)
	if err != nil {
		return err
	}
	valid := &load{bodies: bodies, want: []byte(`"authenticated":true`)}
	foreign := &load{bodies: gitlab.foreign(o.tokens), want: []byte(`"status":{"user":{}}`)}
	nothing := &load{bodies: bodies, want: []byte(`"authenticated":true`)}

	webhook, err := start(ctx, "webhook", dir, o.profiles, o.tokens)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, webhook.stop()) }()
	null, err := start(ctx, "null", dir, o.profiles, o.tokens)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, null.stop()) }()
	toWebhook, toNull := newClient(webhook.url, pool, pair), newClient(null.url, pool, pair)
	defer toWebhook.close()
	defer toNull.close()

	b := &bench{o: o}
	var reviews, constants, strangers result
	total := int64(0)
	b.turn(ctx, toWebhook, webhook, valid, o.slice/2) // warm up, keys are fetched
	b.turn(ctx, toNull, null, nothing, o.slice/2)
	var verification time.Duration
	fetches := int64(0)
	for range o.turns {
		constants.add(b.turn(ctx, toNull, null, nothing, o.slice))
		reviews.add(b.turn(ctx, toWebhook, webhook, valid, o.slice))
		before := gitlab.reads.Load()
		strangers.add(b.turn(ctx, toWebhook, webhook, foreign, o.slice))
		fetches += gitlab.reads.Load() - before
		v, err := gitlab.verification()
		if err != nil {
			return err
		}
		verification += v / time.Duration(o.turns)
	}
	total += reviews.sent + strangers.sent
	floor := constants.cpuPer() + float64(verification.Nanoseconds())/1000
	b.say("authn.null_rate", constants.rate(), "requests/s")
	b.say("authn.rate", reviews.rate(), "reviews/s")
	b.say("authn.foreign_rate", strangers.rate(), "reviews/s")
	b.bar("authn.vs_null", reviews.rate()/constants.rate(), "ratio", 0.30, atLeast)
	b.bar("authn.foreign_vs_null", strangers.rate()/constants.rate(), "ratio", 0.55, atLeast)
	b.bar("authn.foreign_key_fetches", float64(fetches), "fetches", 0, atMost)
	b.say("authn.null_cpu", constants.cpuPer(), "us/request")
	b.say("authn.rsa_verify_cpu", float64(verification.Nanoseconds())/1000, "us")
	b.say("authn.cpu", reviews.cpuPer(), "us/review")
	b.say("authn.foreign_cpu", strangers.cpuPer(), "us/review")
	b.bar("authn.cpu_vs_floor", reviews.cpuPer()/floor, "ratio", 2.0, atMost)
	b.bar("authn.failed", float64(reviews.failed+constants.failed+strangers.failed), "requests", 0, atMost)

	total += b.crowds(ctx, toWebhook, webhook, people(bodies))

	half := toWebhook.paced(ctx, valid, reviews.rate()/2, 2*o.slice)
	total += half.sent
	b.say("authn.p50_half_load", half.quantile(0.5).Seconds()*1000, "ms")
	b.say("authn.p99_half_load", half.quantile(0.99).Seconds()*1000, "ms")

	if !o.quick {
		r, reloads, err := reload(ctx, toWebhook, valid, dir, authority, o)
		if err != nil {
			return err
		}
		total += r.sent
		b.say("authn.reloads", float64(reloads), "certificates")
		b.bar("authn.reload_failed", float64(r.failed), "requests", 0, atMost)
		if r.lastErr != nil {
			fmt.Fprintln(os.Stderr, "during the reloads:", r.lastErr)
		}
		if rest := int64(o.reviews) - total; rest > 0 {
			fmt.Fprintf(os.Stderr, "%d more reviews, for the memory\n", rest)
			total += toWebhook.full(ctx, valid, o.workers, 0, rest).sent
		}
		u, err := webhook.usage()
		if err != nil {
			return err
		}
		b.say("authn.reviews", float64(total), "reviews")
		b.bar("authn.rss_mib", float64(u.rss)/1024, "MiB", 64, below)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return b.err
}

// crowds compares what a review costs when one person comes all the time, and when many do: it must be the same, or a busy
// hour is dearer than its reviews. It returns how many were sent.
func (b *bench) crowds(ctx context.Context, c *client, webhook *child, bodies [][]byte) (sent int64) {
	sizes := slices.Compact([]int{1, min(5000, len(bodies)), len(bodies)})
	loads, results := make([]*load, len(sizes)), make([]result, len(sizes))
	for i, n := range sizes {
		loads[i] = &load{bodies: bodies[:n], want: []byte(`"authenticated":true`)}
	}
	for range b.o.turns { // in turns, so that what else the machine does hits all of them
		for i := range sizes {
			r := b.turn(ctx, c, webhook, loads[i], b.o.slice)
			results[i].add(r)
			sent += r.sent
		}
	}
	for i, n := range sizes {
		b.say(fmt.Sprintf("authn.cpu_of_%d", n), results[i].cpuPer(), "us/review")
		b.bar(fmt.Sprintf("authn.failed_of_%d", n), float64(results[i].failed), "requests", 0, atMost)
		if n > 1 {
			b.bar(fmt.Sprintf("authn.cpu_of_%d_vs_1", n), results[i].cpuPer()/results[0].cpuPer(), "ratio", 1.20, atMost)
		}
	}
	return sent
}

// writeFiles writes what the measured processes read.
func writeFiles(dir string, authority *localcert.Authority, gitlab *issuer) error {
	server, err := authority.Server("webhook")
	if err != nil {
		return err
	}
	gitlabCA := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: gitlab.server.Certificate().Raw})
	for name, content := range map[string][]byte{
		"tls.crt": server.Cert, "tls.key": server.Key, "ca.crt": authority.PEM, "gitlab-ca.crt": gitlabCA,
		"config.yaml": fmt.Appendf(nil, configFile, gitlab.server.URL, dir, clientID, ciAudience),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

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

// bench prints what was measured and remembers what misses its bar.
type bench struct {
	o   options
	err error
}

// turn loads a child and measures what that costs it.
func (b *bench) turn(ctx context.Context, c *client, of *child, l *load, d time.Duration) result {
	before, err := of.usage()
	b.err = errors.Join(b.err, err)
	r := c.full(ctx, l, b.o.workers, d, 0)
	after, err := of.usage()
	b.err = errors.Join(b.err, err)
	r.cpu = after.cpu - before.cpu
	if r.lastErr != nil {
		fmt.Fprintln(os.Stderr, "a request failed:", r.lastErr)
	}
	return r
}

func (b *bench) say(name string, value float64, unit string) {
	fmt.Fprintf(os.Stdout, "BENCH %s %s %s\n", name, strconv.FormatFloat(math.Round(value*1000)/1000, 'f', -1, 64), unit)
}

type direction string

const (
	atLeast direction = "at least"
	atMost  direction = "at most"
	below   direction = "below"
)

func (b *bench) bar(name string, value float64, unit string, bar float64, d direction) {
	b.say(name, value, unit)
	held := map[direction]bool{atLeast: value >= bar, atMost: value <= bar, below: value < bar}[d]
	if !held {
		b.err = errors.Join(b.err, fmt.Errorf("%s is %.3g %s, want %s %.3g", name, value, unit, d, bar))
	}
}
