//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
)

// bench prints what was measured and remembers what misses its bar.
type bench struct {
	o             options
	gitlab        *issuer
	webhook, null *target
	sent          int64 // reviews to the webhook that were measured
	err           error
}

// beside sends valid and foreign tokens to the webhook and anything to the constant handler, in turns, and prints how they
// compare. It returns the rate of the valid ones.
func (b *bench) beside(ctx context.Context, valid *load) (rate float64, err error) {
	foreign := &load{bodies: b.gitlab.foreign(b.o.tokens), want: []byte(`"status":{"user":{}}`)}
	nothing := &load{bodies: valid.bodies, want: valid.want}
	b.turn(ctx, b.webhook, valid, b.o.slice/2) // warm up, keys are fetched
	b.turn(ctx, b.null, nothing, b.o.slice/2)
	var reviews, constants, strangers result
	var verification time.Duration
	fetches := int64(0)
	for range b.o.turns {
		constants.add(b.turn(ctx, b.null, nothing, b.o.slice))
		reviews.add(b.turn(ctx, b.webhook, valid, b.o.slice))
		before := b.gitlab.reads.Load()
		strangers.add(b.turn(ctx, b.webhook, foreign, b.o.slice))
		fetches += b.gitlab.reads.Load() - before
		v, err := b.gitlab.verification()
		if err != nil {
			return 0, err
		}
		verification += v / time.Duration(b.o.turns)
	}
	b.sent += reviews.sent + strangers.sent
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
	return reviews.rate(), nil
}

// crowds compares what a review costs when one person comes all the time, and when many do: it must be the same, or a busy
// hour is dearer than its reviews.
func (b *bench) crowds(ctx context.Context, bodies [][]byte) {
	sizes := slices.Compact([]int{1, min(5000, len(bodies)), len(bodies)})
	loads, results := make([]*load, len(sizes)), make([]result, len(sizes))
	for i, n := range sizes {
		loads[i] = &load{bodies: bodies[:n], want: []byte(`"authenticated":true`)}
	}
	for range b.o.turns { // in turns, so that what else the machine does hits all of them
		for i := range sizes {
			r := b.turn(ctx, b.webhook, loads[i], b.o.slice)
			results[i].add(r)
			b.sent += r.sent
		}
	}
	for i, n := range sizes {
		b.say(fmt.Sprintf("authn.cpu_of_%d", n), results[i].cpuPer(), "us/review")
		b.bar(fmt.Sprintf("authn.failed_of_%d", n), float64(results[i].failed), "requests", 0, atMost)
		if n > 1 {
			b.bar(fmt.Sprintf("authn.cpu_of_%d_vs_1", n), results[i].cpuPer()/results[0].cpuPer(), "ratio", 1.20, atMost)
		}
	}
}

// halfLoad measures how long an answer takes while the webhook is asked at a rate that leaves it time.
func (b *bench) halfLoad(ctx context.Context, l *load, rate float64) {
	half := b.webhook.client.paced(ctx, l, rate, 2*b.o.slice)
	b.sent += half.sent
	b.say("authn.p50_half_load", half.quantile(0.5).Seconds()*1000, "ms")
	b.say("authn.p99_half_load", half.quantile(0.99).Seconds()*1000, "ms")
}

// reloads prints whether a request failed while the webhook's certificate changed.
func (b *bench) reloads(ctx context.Context, l *load, dir string, authority *localcert.Authority) error {
	r, reloads, err := reload(ctx, b.webhook.client, l, dir, authority, b.o)
	if err != nil {
		return err
	}
	b.sent += r.sent
	b.say("authn.reloads", float64(reloads), "certificates")
	b.bar("authn.reload_failed", float64(r.failed), "requests", 0, atMost)
	if r.lastErr != nil {
		fmt.Fprintln(os.Stderr, "during the reloads:", r.lastErr)
	}
	return nil
}

// memory sends what is missing of the reviews that are asked for and looks what the webhook holds afterwards.
func (b *bench) memory(ctx context.Context, l *load) error {
	if rest := int64(b.o.reviews) - b.sent; rest > 0 {
		fmt.Fprintf(os.Stderr, "%d more reviews, for the memory\n", rest)
		b.sent += b.webhook.client.full(ctx, l, b.o.workers, 0, rest).sent
	}
	u, err := b.webhook.usage()
	if err != nil {
		return err
	}
	b.say("authn.reviews", float64(b.sent), "reviews")
	b.bar("authn.rss_mib", float64(u.rss)/1024, "MiB", 64, below)
	return nil
}

// turn loads a target and measures what that costs it.
func (b *bench) turn(ctx context.Context, to *target, l *load, d time.Duration) result {
	before, err := to.usage()
	b.err = errors.Join(b.err, err)
	r := to.client.full(ctx, l, b.o.workers, d, 0)
	after, err := to.usage()
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
