package past

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/audit"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

var (
	placeName = regexp.MustCompile(`\b(grp|prj)-(\d+)-q`)
	placeID   = regexp.MustCompile(`\b(group|project|user)/\d+`)
)

// pastOf is a GitLab that changes, with a cluster that follows it and a history.
type pastOf struct {
	t       *testing.T
	r       *rand.Rand
	policy  authz.Policy
	snap    *authz.Snapshot
	have    *rbacsync.Observed
	history *audit.Writer
	kube    *fake.Clientset
	now     time.Time
	ever    map[string]bool // "user source": who was a member of what at some time
}

func newPast(t *testing.T, seed uint64) *pastOf {
	t.Helper()
	policy, err := authz.NewPolicy(authz.PolicyConfig{
		Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource, authz.UserSource},
		Extra: []authz.ExtraRole{
			{Source: authz.GroupID(1), Below: true, ClusterRole: "more", Group: 3},
			{Source: authz.GroupID(2), Below: true, ClusterRole: "view", Group: 4},
			{Source: authz.GroupID(2), Below: true, ClusterRole: "edit", Levels: []authz.Level{authz.Guest}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	p := &pastOf{
		t: t, r: rand.New(rand.NewPCG(seed, 33)), policy: policy, have: &rbacsync.Observed{}, kube: fake.NewSimpleClientset(), now: rbacsynctest.Noon, ever: map[string]bool{},
	}
	p.history = audit.NewWriter(audit.Options{
		Kube: p.kube, Limits: func() audit.Limits { return audit.Limits{Days: 400, MaxBytes: 1 << 20, PseudonymiseAfter: time.Hour} },
		Now: func() time.Time { return p.now }, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	version := 0
	p.kube.PrependReactor("*", "secrets", func(a kubetesting.Action) (bool, runtime.Object, error) {
		if write, ok := a.(kubetesting.UpdateAction); ok { // or a create: their methods are the same
			version++
			write.GetObject().(*corev1.Secret).ResourceVersion = strconv.Itoa(version)
		}
		return false, nil, nil
	})
	p.snap = authztest.Snapshot(p.r)
	p.snap.Issuer, p.snap.Taken = rbacsynctest.Issuer, p.now
	for id, g := range p.snap.Groups {
		g.Path = fmt.Sprintf("grp-%d-q", id)
		p.snap.Groups[id] = g
	}
	for id, x := range p.snap.Projects {
		x.Path = fmt.Sprintf("prj-%d-q", id)
		p.snap.Projects[id] = x
	}
	return p
}

// pass writes into the cluster what GitLab says now, and into the history what was written.
func (p *pastOf) pass(before *authz.Snapshot) {
	p.t.Helper()
	p.now = p.now.Add(time.Minute)
	made, _ := rbacsync.Plan(p.have, rbacsynctest.WantedFor(p.policy, p.snap, p.have))
	approved := rbacsync.Verdict{Approved: map[rbacsync.Right]string{}}
	for _, c := range made {
		if p.r.IntN(4) == 0 && c.Old != nil && c.Old.Binding != nil {
			for _, u := range c.Old.Binding.Users {
				approved.Approved[rbacsync.Right{Source: c.Source, Role: c.Old.Binding.Role, User: u}] = "gitlab:9"
			}
		} else if p.r.IntN(10) == 0 {
			approved.Approved[rbacsync.Right{Source: c.Source}] = "gitlab:9"
		}
	}
	approved.NameApprovers(made)
	p.history.Take(syncer.Written{
		Kind: syncer.KindFull, Cause: "hook", Observed: p.have, Made: made, Snapshot: p.snap, Before: before, Policy: p.policy, Began: p.now, Ended: p.now.Add(time.Second),
	})
	if err := p.history.Flush(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	p.have = rbacsynctest.Apply(p.have, made)
	for _, at := range []time.Time{p.now, {}} {
		members := authz.NewResolver(p.snap, at)
		for _, id := range p.places() {
			for user := int64(1); user <= 10; user++ {
				if _, ok := members.Members(id).Access(user); ok {
					p.ever[fmt.Sprint(user, " ", id)] = true
				}
			}
		}
	}
}

func (p *pastOf) places() (out []authz.SourceID) {
	for id := range p.snap.Groups {
		out = append(out, authz.GroupID(id))
	}
	for id := range p.snap.Projects {
		out = append(out, authz.ProjectID(id))
	}
	return out
}

// heardBy is what somebody hears of their changes.
func (p *pastOf) heardBy(user int64) (all []webapi.Change, stored int, v authz.View) {
	p.t.Helper()
	names, _ := p.have.Names(rbacsynctest.Issuer)
	v = authz.NewView(p.snap, p.policy, names)
	entries, err := audit.NewReader(p.kube).User(p.t.Context(), user, time.Time{}, time.Time{})
	if err != nil {
		p.t.Fatal(err)
	}
	s := people.New(people.Options{
		View: func() (authz.View, bool) { return v, true }, Now: func() time.Time { return p.now },
		Changes: func(context.Context, int64, time.Time) ([]people.Changed, error) { return own(entries), nil },
	})
	if all, err = s.Changes(p.t.Context(), user, time.Time{}); err != nil {
		p.t.Fatal(err)
	}
	for _, e := range entries {
		if placeName.MatchString(e.Why) || placeID.MatchString(e.Why) {
			stored++
		}
	}
	return all, stored, v
}

// TestOwnHistoryNamesNothingOfOthers is the law of what people hear of their past: in a namespace whose source they are no member of, no
// reason names a group or project, whatever they had there and however they came to it; elsewhere none names one of which they are not
// and never were a member.
func TestOwnHistoryNamesNothingOfOthers(t *testing.T) {
	t.Parallel()
	named, left, ended, approved := 0, 0, 0, 0
	for seed := range uint64(25) {
		p := newPast(t, seed)
		p.pass(nil)
		for range 12 {
			before := p.snap
			p.snap = authztest.Clone(before)
			for range 4 {
				authztest.Change(p.r, p.snap)
			}
			for id, g := range p.snap.Groups {
				if g.Parent >= id { // GitLab has no cycles
					g.Parent = 0
					p.snap.Groups[id] = g
				}
			}
			clear(p.snap.Missing)
			p.pass(before)
		}
		members := authz.NewResolver(p.snap, p.now)
		for user := int64(1); user <= 10; user++ {
			all, stored, v := p.heardBy(user)
			for _, c := range all {
				_, member := members.Members(v.Source[c.Namespace]).Access(user)
				names := placeName.FindAllStringSubmatch(c.Why, -1)
				if !member && (len(names) > 0 || placeID.MatchString(c.Why)) {
					t.Fatalf("seed %d: user %d is no member of what %s belongs to, and hears %q", seed, user, c.Namespace, c.Why)
				}
				for _, m := range names {
					n, _ := strconv.ParseInt(m[2], 10, 64)
					id := authz.GroupID(n)
					if m[1] == "prj" {
						id = authz.ProjectID(n)
					}
					if !p.ever[fmt.Sprint(user, " ", id)] {
						t.Fatalf("seed %d: user %d was never a member of %s, and hears %q", seed, user, id, c.Why)
					}
				}
				if len(names) > 0 {
					named++
				}
				if len(names) == 0 && c.Why != "" {
					ended++
				}
				if regexp.MustCompile(`\bapproved by an administrator$`).MatchString(c.Why) {
					approved++
				}
				if regexp.MustCompile(`gitlab:\d`).MatchString(c.Why) {
					t.Fatalf("seed %d: user %d hears who approved: %q", seed, user, c.Why)
				}
			}
			left += stored
		}
	}
	if left -= named; named < 200 || left < 200 || ended < 100 || approved < 50 {
		t.Errorf("%d reasons with names, %d without those that are stored, %d of these with a reason left, %d approved: the test looks at too little", named, left, ended, approved)
	}
}
