package gitlab

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// clock is a clock that tests set.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func sum(in map[string]int64) (n int64) {
	for _, k := range in {
		n += k
	}
	return n
}

// shares makes an organisation of groups, projects in them, invitations into groups and into projects. Half of the groups have invitations.
func shares(t *testing.T, groups, projects int) *org {
	t.Helper()
	sim, err := gitlabsim.New(gitlabsim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sim.Close)
	o := &org{t: t, sim: sim, w: sim.World(), id: map[string]int64{}}
	o.user(gitlabsim.User{Username: "root", Admin: true})
	o.user(gitlabsim.User{Username: "alice"})
	name := func(i int) int64 { return o.id[fmt.Sprintf("g%d", i%groups)] }
	for i := range groups {
		o.group(fmt.Sprintf("g%d", i), "")
		o.ok(o.w.SetMember(gitlabsim.KindGroup, name(i), o.id["alice"], 30, ""))
	}
	for i := range groups {
		o.ok(o.w.ShareGroup(o.id[fmt.Sprintf("g%d", i/2)], name(i/2+1+i%2), 30, ""))
	}
	for i := range projects {
		p := o.project(fmt.Sprintf("p%d", i), fmt.Sprintf("g%d", i%groups))
		if i%10 == 0 {
			o.ok(o.w.ShareProject(p, name(i+1), 20, ""))
		}
	}
	return o
}

// TestLinksAreReadInTurns: of an organisation with many invitations the first reading reads each group that has some, a further one
// at the usual distance about a third of them, and none is older than the bound and one reading.
func TestLinksAreReadInTurns(t *testing.T) {
	t.Parallel()
	groups := 200
	o := shares(t, groups, 5*groups)
	c := &clock{t: time.Now()}
	r := o.reader(func(op *Options) { op.Now, op.PageSize = c.now, 10 })
	var rest, links int64
	for i := range 6 {
		before := r.Requests()
		got, err := r.Snapshot(t.Context())
		o.ok(err)
		if d := diff(o.want(true), got); d != "" {
			t.Fatalf("reading %d (-GitLab +Snapshot)\n%s", i, d)
		}
		now := r.Requests()
		links, rest = now["group"]-before["group"], sum(now)-sum(before)-(now["group"]-before["group"])
		t.Logf("reading %d: %d requests for links, %d others, oldest links %v", i, links, rest, r.LinksAge())
		switch want := int64(groups / 2); {
		case i == 0 && links != want, i > 0 && (links < want/3 || links > want/3+1):
			t.Errorf("reading %d: %d requests for links of %d groups", i, links, want)
		}
		if r.LinksAge() > defaultLinksMaxAge {
			t.Errorf("reading %d: the oldest links are %v old", i, r.LinksAge())
		}
		c.t = c.t.Add(5 * time.Minute)
	}
}

// TestLinksAreReadBetweenFullReadings: who reads them between takes the work off the full readings, and is told what changed.
func TestLinksAreReadBetweenFullReadings(t *testing.T) {
	t.Parallel()
	o := shares(t, 60, 60)
	c := &clock{t: time.Now()}
	r := o.reader(func(op *Options) { op.Now, op.PageSize = c.now, 10 })
	base, err := r.Snapshot(t.Context())
	o.ok(err)
	g3 := authz.GroupID(o.id["g3"])
	o.ok(o.w.ShareGroup(g3.ID, o.id["g4"], 10, ""))
	var changed []authz.SourceID
	for range 3 {
		for range 15 {
			c.t = c.t.Add(20 * time.Second)
			ids, err := r.RereadLinks(t.Context())
			o.ok(err)
			changed = append(changed, ids...)
			base, err = r.Refresh(t.Context(), base, ids)
			o.ok(err)
		}
		before := r.Requests()["group"]
		got, err := r.Snapshot(t.Context())
		o.ok(err)
		if n := r.Requests()["group"] - before; n > 1 || r.LinksAge() > defaultLinksMaxAge {
			t.Errorf("a full reading reads the links of %d groups, the oldest are %v old", n, r.LinksAge())
		}
		if d := diff(base, got); d != "" {
			t.Errorf("(-Refresh +Snapshot)\n%s", d)
		}
	}
	if !slices.Equal(changed, []authz.SourceID{g3}) {
		t.Errorf("changed: %v", changed)
	}
	if d := diff(o.want(true), base); d != "" {
		t.Errorf("(-GitLab +Refresh)\n%s", d)
	}
}

// TestRememberedLinksAreNeverWrongForLong: whatever happens to invitations, one that came or went is seen by the next reading, a level
// or end date that changed at the latest when the bound is over, and what a targeted reading saw counts at once.
func TestRememberedLinksAreNeverWrongForLong(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		rnd := rand.New(rand.NewPCG(seed, 5))
		o := newOrg(t)
		c := &clock{t: time.Now()}
		r := o.reader(func(op *Options) { op.Now = c.now })
		groups := []string{"haw", "world", "deep", "empty", "crowd", "partner"}
		type change struct {
			group int64
			at    time.Time
		}
		var hidden []change // levels that changed and what nobody was told of
		base, err := r.Snapshot(t.Context())
		o.ok(err)
		for range 25 {
			a, b := o.id[groups[rnd.IntN(len(groups))]], o.id[groups[rnd.IntN(len(groups))]]
			if a == b {
				continue
			}
			linked := slices.ContainsFunc(o.want(true).Groups[a].Links, func(l authz.Link) bool { return l.Group == b })
			switch {
			case !linked:
				if o.w.ShareGroup(a, b, 10+10*rnd.IntN(4), "") != nil {
					continue
				}
			case rnd.IntN(3) == 0:
				o.ok(o.w.UnshareGroup(a, b))
			default:
				o.ok(o.w.ShareGroup(a, b, 10+10*rnd.IntN(4), ""))
				hidden = append(hidden, change{a, c.t})
			}
			if rnd.IntN(3) == 0 {
				_, err = r.Refresh(t.Context(), base, []authz.SourceID{authz.GroupID(a)})
				o.ok(err)
				hidden = slices.DeleteFunc(hidden, func(h change) bool { return h.group == a })
			}
			c.t = c.t.Add(time.Duration(rnd.IntN(300)) * time.Second)
			before := c.t
			base, err = r.Snapshot(t.Context())
			o.ok(err)
			want := o.want(true)
			for id, g := range want.Groups {
				same := slices.Equal(g.Links, base.Groups[id].Links)
				who := func(ls []authz.Link) (out []int64) {
					for _, l := range ls {
						out = append(out, l.Group)
					}
					return out
				}
				if !slices.Equal(who(g.Links), who(base.Groups[id].Links)) {
					t.Fatalf("seed %d: group %d has %v, read %v", seed, id, g.Links, base.Groups[id].Links)
				}
				for _, h := range hidden {
					if h.group == id && !same && before.Sub(h.at) > defaultLinksMaxAge+5*time.Minute {
						t.Fatalf("seed %d: group %d changed %v ago and has %v, read %v", seed, id, before.Sub(h.at), g.Links, base.Groups[id].Links)
					}
				}
			}
		}
	}
}

// TestWhatListsTellIsReadAgain: a group that is not as it was when its links were read, or that a targeted reading could not read,
// does not wait for its turn.
func TestWhatListsTellIsReadAgain(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	world := authz.GroupID(o.id["world"])
	failing := false
	r := o.faultyReader(func(r *http.Request, _ string) *http.Response {
		if failing && strings.HasPrefix(r.URL.Path, "/api/v4/"+sourcePath(world)) {
			return answer(500, "{}")
		}
		return nil
	}, nil)
	read := func() int64 {
		before := r.Requests()["group"]
		got, err := r.Snapshot(t.Context())
		o.ok(err)
		if d := diff(o.want(true), got); d != "" {
			t.Fatalf("(-GitLab +Snapshot)\n%s", d)
		}
		return r.Requests()["group"] - before
	}
	read()
	if n := read(); n > 1 {
		t.Fatalf("%d groups were read although nothing changed", n)
	}
	o.ok(o.w.SetShareWithGroupLock(o.id["old"], true))
	if n := read(); n == 0 || n > 3 {
		t.Errorf("a list tells of a change: %d groups were read", n)
	}
	failing = true
	if _, err := r.Refresh(t.Context(), o.want(true), []authz.SourceID{world, authz.GroupID(o.id["haw"])}); err != nil {
		t.Fatal(err)
	}
	failing = false
	o.ok(o.w.ShareGroup(world.ID, o.id["crowd"], 10, "")) // nobody tells of it
	if n := read(); n == 0 || n > 3 {
		t.Errorf("a targeted reading failed: %d groups were read", n)
	}
}

// TestAFullReadingWithThingsThatFail: what GitLab does not answer about costs a full reading little, and all else is read.
func TestAFullReadingWithThingsThatFail(t *testing.T) {
	for name, fault := range faultsForGood() {
		if name == "closes" { // this looks as if GitLab could not be reached
			continue
		}
		for _, warm := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, links remembered %v", name, warm), func(t *testing.T) {
				t.Parallel()
				o := newOrg(t)
				c := &clock{t: time.Now()}
				r := o.patientReader(func(op *Options) { op.Now, op.NoPacing = c.now, true })
				if warm {
					_, err := r.Snapshot(t.Context())
					o.ok(err)
					c.t = c.t.Add(10 * time.Minute)
				}
				world := authz.GroupID(o.id["world"])
				o.sim.SetFaults(at(fault, "/api/v4/"+sourcePath(world)))
				defer o.sim.SetFaults(gitlabsim.Faults{})
				start := time.Now()
				got, err := r.Snapshot(t.Context())
				o.ok(err)
				if d := time.Since(start); d > 10*time.Second {
					t.Errorf("took %v", d)
				}
				if (got.Missing[world] != "") == warm || len(got.Missing) > 1 || got.MissingAll != "" {
					t.Fatalf("missing %v, %q", got.Missing, got.MissingAll)
				}
				clear(got.Missing)
				want := o.want(true)
				if !warm {
					g := want.Groups[world.ID]
					g.Links = got.Groups[world.ID].Links
					want.Groups[world.ID] = g
				}
				if d := diff(want, got); d != "" {
					t.Errorf("(-GitLab +Snapshot)\n%s", d)
				}
			})
		}
	}
}

// TestAKindThatHangsLosesNoFullReading: no group can be read alone. The reading ends soon, and has all that needs no such answer.
func TestAKindThatHangsLosesNoFullReading(t *testing.T) {
	t.Parallel()
	for name, fault := range faultsForGood() {
		if name == "closes" || name == "429" || name == "429 for ten minutes" { // these are waited for, as GitLab wants it
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOrg(t)
			o.sim.SetFaults(at(fault, "/api/v4/groups/"))
			defer o.sim.SetFaults(gitlabsim.Faults{})
			start := time.Now()
			got, err := o.patientReader(func(op *Options) { op.NoPacing = true }).Snapshot(t.Context())
			o.ok(err)
			if d := time.Since(start); d > 20*time.Second {
				t.Errorf("took %v", d)
			}
			want := o.want(true)
			var linked []authz.SourceID
			for id, g := range want.Groups {
				if len(g.Links) > 0 {
					linked = append(linked, authz.GroupID(id))
					g.Links = nil
					want.Groups[id] = g
				}
			}
			slices.SortFunc(linked, authz.SourceID.Compare)
			if missing := slices.SortedFunc(maps.Keys(got.Missing), authz.SourceID.Compare); !slices.Equal(missing, linked) || got.MissingAll != "" {
				t.Errorf("missing %v, %q, want %v", got.Missing, got.MissingAll, linked)
			}
			clear(got.Missing)
			if d := diff(want, got); d != "" {
				t.Errorf("(-GitLab +Snapshot)\n%s", d)
			}
		})
	}
}

// TestStatesWithoutGraphQL: when GraphQL hangs, accounts are asked for alone, and one about which GitLab does not answer hides no other.
func TestStatesWithoutGraphQL(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	bob, alice := o.id["bob"], o.id["alice"]
	o.sim.SetFaults(at(gitlabsim.FaultRule{Latency: time.Hour}, "/api/graphql", "/api/v4/users/"+fmt.Sprint(bob)))
	defer o.sim.SetFaults(gitlabsim.Faults{})
	r := o.patientReader(nil)
	for _, most := range []time.Duration{10 * time.Second, 5 * time.Second} {
		start := time.Now()
		states, more, err := r.States(t.Context(), []int64{bob, alice})
		o.ok(err)
		if d := time.Since(start); d > most || states[alice] != "active" || !slices.Equal(more, []int64{bob}) {
			t.Errorf("after %v: %v, %v", d, states, more)
		}
	}
}
