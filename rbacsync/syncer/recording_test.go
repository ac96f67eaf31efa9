package syncer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/preview"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// differs reports whether a ClusterRole can't be given, or might not.
func (r roleSet) differs() bool {
	for _, state := range r {
		if state != "yes" {
			return true
		}
	}
	return false
}

// planAndReplay makes a plan and records it, writes the recording into a file and reads it again. The plan made from that, by the same
// configuration, has to be the same. It returns the plan, its document as it was read from JSON, and the plan that another
// configuration makes from the file.
func planAndReplay(t *testing.T, kube *fake.Clientset, o, other syncer.Options) (plan syncer.Round, doc preview.Document, again syncer.Round) {
	t.Helper()
	o.Observe = func(ctx context.Context) (*rbacsync.Observed, error) {
		return cluster.List(ctx, kube, o.Policy.ClusterRoles())
	}
	var rec syncer.Recording
	once := func(o syncer.Options) syncer.Round {
		s, err := syncer.New(o)
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.Once(t.Context(), "command")
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	plan = once(rec.Record(o))
	rec.Roles = o.Roles.Roles()
	var file bytes.Buffer
	if err := store.WriteRecording(&file, store.Recorded{Recording: &rec}); err != nil {
		t.Fatal(err)
	}
	x, err := store.ReadRecording(&file)
	if err != nil {
		t.Fatal(err)
	}
	offline := once(x.Recording.Replay(o))
	if d := cmp.Diff(rbacsync.Text(plan.Plan)+rbacsync.HeldText(plan.Held), rbacsync.Text(offline.Plan)+rbacsync.HeldText(offline.Held)); d != "" {
		t.Fatalf("online and from the file (-online +file):\n%s", d)
	}
	text := documentOf(t, o.Policy, plan)
	if d := cmp.Diff(text, documentOf(t, o.Policy, offline)); d != "" {
		t.Fatalf("documents online and from the file (-online +file):\n%s", d)
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	return plan, doc, once(x.Recording.Replay(other))
}

func documentOf(t *testing.T, p authz.Policy, r syncer.Round) string {
	t.Helper()
	d := preview.New(preview.Input{
		Plan: r.Plan, Held: r.Held, Observed: r.PlannedOn.Observed, Snapshot: r.Snapshot, Policy: p, Names: r.Names,
		Before: r.PlannedOn.Before, Was: r.PlannedOn.Was, Now: r.Started,
	})
	text, err := json.MarshalIndent(d, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// comesTrue compares a document with the cluster after serve: what it held before, with the rights of the document taken and
// given, is what it holds; and the writes of the document are those of the plan.
func comesTrue(t *testing.T, kube *fake.Clientset, plan syncer.Round, doc preview.Document) {
	t.Helper()
	want := rightsIn(plan.PlannedOn.Observed)
	writes, empty := 0, 0
	set := func(ns, role, subject string, there bool) {
		key := ns + " " + role + " " + subject
		if want[key] == there {
			t.Errorf("%s: told to be %t, and it is already", key, there)
		}
		if delete(want, key); there {
			want[key] = true
		}
	}
	for _, ns := range doc.Namespaces {
		writes += len(ns.Writes)
		for _, r := range ns.People {
			if r.Reason.Code == "" || r.Reason.Text == "" {
				t.Errorf("%s: no reason for %v", ns.Name, r)
			}
			for _, role := range r.From {
				set(ns.Name, role, "User "+r.User.Subject, false)
			}
			for _, role := range r.To {
				set(ns.Name, role, "User "+r.User.Subject, true)
			}
		}
		for _, j := range ns.Jobs {
			set(ns.Name, j.Role, j.Subject.Kind+" "+j.Subject.Name, j.Action == preview.Gain)
		}
	}
	for _, c := range plan.Plan {
		if added, _ := c.Subjects(); c.Key.Kind == rbacsync.KindRoleBinding && c.Action == rbacsync.Create && len(added) == 0 {
			empty++
		}
	}
	if writes+empty != len(plan.Plan) || doc.Summary.EmptyBindings != empty || doc.Summary.Writes != len(plan.Plan) {
		t.Errorf("%d writes and %d empty bindings are told of %d (%+v)", writes, empty, len(plan.Plan), doc.Summary)
	}
	after, err := cluster.List(t.Context(), kube, nil)
	if err != nil {
		t.Fatal(err)
	}
	lines := func(m map[string]bool) []string { return slices.Sorted(maps.Keys(m)) }
	if d := cmp.Diff(lines(want), lines(rightsIn(after))); d != "" {
		t.Fatalf("the document, and what serve made (-document +serve):\n%s", d)
	}
}

func rightsIn(o *rbacsync.Observed) map[string]bool {
	out := map[string]bool{}
	for _, l := range o.Live {
		if l.Binding == nil {
			continue
		}
		for _, s := range l.Binding.Subjects() {
			out[fmt.Sprintf("%s %s %s %s", l.Key.Namespace, l.Binding.Role, s.Kind, s.Name)] = true
		}
	}
	return out
}
