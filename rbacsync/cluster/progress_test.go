package cluster_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
)

// TestProgress: while a plan is written, the caller and the log learn how far it is and how long it takes; a plan that
// is written at once makes no noise.
func TestProgress(t *testing.T) {
	t.Parallel()
	empty := &rbacsync.Observed{}
	plan, _ := rbacsync.Plan(empty, rbacsynctest.WantedFor(rbacsynctest.Policy(t), rbacsynctest.Organisation(4, 4), empty))
	var reports []cluster.Progress
	var log bytes.Buffer
	o := cluster.ApplyOptions{
		Concurrency: 1, QPS: float32(len(plan)) / 2, Logger: slog.New(slog.NewJSONHandler(&log, nil)),
		Progress: func(p cluster.Progress) { reports = append(reports, p) }, ProgressEvery: 2 * time.Millisecond,
	}
	// The limiter lets one burst through at once, so a plan takes a second at half of its size.
	r := cluster.Apply(t.Context(), fake.NewClientset(), plan, o)
	if r.Applied != len(plan) || len(reports) < 10 {
		t.Fatalf("%d of %d applied, told %d times", r.Applied, len(plan), len(reports))
	}
	for i, p := range reports {
		if p.Total != len(plan) || p.Done > p.Total || (i > 0 && (p.Done < reports[i-1].Done || p.Elapsed <= reports[i-1].Elapsed)) {
			t.Errorf("step %d: %+v after %+v", i, p, reports[max(i-1, 0)])
		}
	}
	if last := reports[len(reports)-1]; last.Done != len(plan) {
		t.Errorf("at the end: %+v", last)
	}
	if lines := strings.Count(log.String(), `"msg":"changes are being made"`); lines < 1 || lines > len(reports)/10 {
		t.Errorf("%d lines in the log for %d reports", lines, len(reports))
	}
	for _, want := range []string{`"total":`, `"done":`, `"perSecond":`, `"left":"`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %s", want)
		}
	}
	// The rate slows down what gives, never what takes away.
	full := rbacsynctest.Organisation(4, 4)
	have := rbacsynctest.Apply(empty, plan)
	for i := range full.Users {
		u := full.Users[i]
		u.State = "blocked"
		full.Users[i] = u
	}
	revocations, _ := rbacsync.Plan(have, rbacsynctest.WantedFor(rbacsynctest.Policy(t), full, have))
	if len(revocations) < 4 || !revocations[len(revocations)-1].Revokes {
		t.Fatalf("no plan of revocations:\n%s", rbacsync.Text(revocations))
	}
	o.QPS = 1
	if r := cluster.Apply(t.Context(), fake.NewClientset(), revocations, o); r.Duration > time.Duration(len(revocations)-1)*time.Second/2 {
		t.Errorf("%d revocations took %v", len(revocations), r.Duration)
	}
	reports = nil
	o.QPS, o.ProgressEvery = 0, time.Hour
	cluster.Apply(t.Context(), fake.NewClientset(), plan, o)
	if len(reports) != 0 {
		t.Errorf("a short plan: told %v", reports)
	}
	p := cluster.Progress{Done: 100, Total: 1100, Elapsed: 10 * time.Second}
	if left, ok := p.Left(); !ok || left != 100*time.Second || p.String() != "100 of 1100 changes, 10/s, about 1m40s left" {
		t.Errorf("%v %v %q", left, ok, p)
	}
	if _, ok := (cluster.Progress{Total: 5}).Left(); ok {
		t.Error("an estimate from nothing")
	}
}
