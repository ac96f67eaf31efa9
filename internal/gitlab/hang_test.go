package gitlab

import (
	"errors"
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

// faultsForGood are the ways in which GitLab may never give an answer about one thing.
func faultsForGood() map[string]gitlabsim.FaultRule {
	limited := `{"message":{"error":"This endpoint has been requested too many times. Try again later."}}`
	return map[string]gitlabsim.FaultRule{
		"hangs":               {Latency: time.Hour},
		"429":                 {Status: http.StatusTooManyRequests, Body: limited},
		"429 for ten minutes": {Status: http.StatusTooManyRequests, Body: limited, Header: http.Header{"Retry-After": {"600"}}},
		"500":                 {Status: http.StatusInternalServerError, Body: "{}"},
		"502":                 {Status: http.StatusBadGateway, Body: "<html>"},
		"closes":              {Close: true},
	}
}

// at makes one fault of several paths.
func at(f gitlabsim.FaultRule, paths ...string) gitlabsim.Faults {
	var out gitlabsim.Faults
	for _, p := range paths {
		f.PathPrefix = p
		out.Rules = append(out.Rules, f)
	}
	return out
}

func (o *org) patientReader(change func(*Options)) *Reader {
	return o.reader(func(op *Options) {
		op.MaxRetries, op.RetryWait, op.NoPacing = 4, 500*time.Millisecond, false // as in operation
		if change != nil {
			change(op)
		}
	})
}

// TestOneThingThatFailsDelaysNoOther: whatever GitLab does about one group, project or account, all else that was asked for is
// read in the same targeted reading, which takes no longer than this one thing may, and what was known of it stays.
func TestOneThingThatFailsDelaysNoOther(t *testing.T) {
	for name, fault := range faultsForGood() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, bad := range []string{"group/world", "project/app", "user/bob"} {
				t.Run(bad, func(t *testing.T) {
					t.Parallel()
					o := newOrg(t)
					r := o.patientReader(nil)
					base, err := r.Snapshot(t.Context())
					o.ok(err)
					kind, who, _ := strings.Cut(bad, "/")
					id := authz.SourceID{Kind: authz.SourceKind(kind), ID: o.id[who]}
					paths := []string{"/api/v4/" + sourcePath(id)}
					if kind == "user" {
						paths = append(paths, "/api/graphql")
					}
					o.ok(o.w.SetUserState(o.id["erin"], gitlabsim.StateBlocked))
					o.ok(o.w.RemoveMember(gitlabsim.KindGroup, o.id["haw"], o.id["alice"]))
					o.ok(o.w.RemoveMember(gitlabsim.KindProject, o.id["lib"], o.id["bob"]))
					o.sim.SetFaults(at(fault, paths...))
					defer o.sim.SetFaults(gitlabsim.Faults{})
					start := time.Now()
					got, err := r.Refresh(t.Context(), base, []authz.SourceID{id, authz.GroupID(o.id["haw"]), authz.ProjectID(o.id["lib"]), authz.UserID(o.id["erin"])})
					took := time.Since(start)
					o.ok(err)
					if took > 5*time.Second+500*time.Millisecond {
						t.Errorf("took %v", took)
					}
					if got.Missing[id] == "" || !got.Contains(id) || len(got.Missing) != 1 {
						t.Errorf("missing %v", got.Missing)
					}
					delete(got.Missing, id)
					if d := diff(o.want(true), got); d != "" {
						t.Errorf("the others (-GitLab +Refresh)\n%s", d)
					}
				})
			}
		})
	}
}

// TestOneThingAloneIsNoFailureOfGitLab: asked for alone, too, it is missing and the targeted reading succeeds.
func TestOneThingAloneIsNoFailureOfGitLab(t *testing.T) {
	for _, name := range []string{"hangs", "429 for ten minutes", "500"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOrg(t)
			world := authz.GroupID(o.id["world"])
			o.sim.SetFaults(at(faultsForGood()[name], "/api/v4/"+sourcePath(world)))
			defer o.sim.SetFaults(gitlabsim.Faults{})
			r := o.patientReader(nil)
			base := o.want(true)
			start := time.Now()
			got, err := r.Refresh(t.Context(), base, []authz.SourceID{world})
			o.ok(err)
			if d := time.Since(start); d > 5*time.Second || got.Missing[world] == "" {
				t.Errorf("took %v, missing %v", d, got.Missing)
			}
			if name != "429 for ten minutes" {
				return
			}
			start = time.Now() // it is known when it is possible again
			got, err = r.Refresh(t.Context(), base, []authz.SourceID{world, authz.GroupID(o.id["haw"])})
			o.ok(err)
			if d := time.Since(start); d > time.Second || !strings.Contains(got.Missing[world], "is possible in ") || got.Missing[authz.GroupID(o.id["haw"])] != "" {
				t.Errorf("took %v, missing %v", d, got.Missing)
			}
		})
	}
}

// TestManyThingsThatHang: twenty take two turns, and then what could not be read is in Missing.
func TestManyThingsThatHang(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	var ids []authz.SourceID
	var paths []string
	for i := range 19 {
		id := authz.ProjectID(o.project(fmt.Sprintf("p%d", i), "world"))
		ids, paths = append(ids, id), append(paths, "/api/v4/"+sourcePath(id))
	}
	base := o.want(true)
	healthy := authz.UserID(o.id["bob"])
	o.ok(o.w.SetUserState(healthy.ID, gitlabsim.StateBlocked))
	o.sim.SetFaults(at(gitlabsim.FaultRule{Latency: time.Hour}, paths...))
	defer o.sim.SetFaults(gitlabsim.Faults{})
	start := time.Now()
	got, err := o.patientReader(nil).Refresh(t.Context(), base, append(ids, healthy))
	o.ok(err)
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
	if len(got.Missing) != len(ids) || got.Users[healthy.ID].State != "blocked" {
		t.Errorf("missing %d of %d; the account is %v", len(got.Missing), len(ids), got.Users[healthy.ID])
	}
}

// TestGitLabThatIsDown: when nothing can be read that is said soon, however much was asked for.
func TestGitLabThatIsDown(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	base := o.want(true)
	var ids []authz.SourceID
	for id := range base.Projects {
		ids = append(ids, authz.ProjectID(id))
	}
	for id := range base.Groups {
		ids = append(ids, authz.GroupID(id))
	}
	o.sim.SetFaults(gitlabsim.Faults{Down: true})
	defer o.sim.SetFaults(gitlabsim.Faults{})
	start := time.Now()
	got, err := o.patientReader(nil).Refresh(t.Context(), base, ids)
	if d := time.Since(start); got != nil || !errors.Is(err, ErrUnreachable) || d > 5*time.Second {
		t.Errorf("%v after %v", err, d)
	}
}

// TestAnyFaultsDelayNoOther: for any choice of faults the targeted reading has what GitLab says of all else, and what was
// known of what failed.
func TestAnyFaultsDelayNoOther(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	o.ok(o.w.InviteEmail(gitlabsim.KindGroup, o.id["deep"], 10))
	base := o.want(true)
	faults := faultsForGood()
	delete(faults, "hangs") // takes too long here
	names := slices.Sorted(maps.Keys(faults))
	for seed := range uint64(12) {
		rnd := rand.New(rand.NewPCG(seed, 12))
		var ids []authz.SourceID
		for id := range base.Groups {
			ids = append(ids, authz.GroupID(id))
		}
		for id := range base.Projects {
			ids = append(ids, authz.ProjectID(id))
		}
		for id := range base.Users {
			ids = append(ids, authz.UserID(id))
		}
		slices.SortFunc(ids, authz.SourceID.Compare)
		rnd.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		ids = ids[:1+rnd.IntN(20)]
		bad := map[authz.SourceID]bool{}
		var all gitlabsim.Faults
		for _, id := range ids {
			if rnd.IntN(4) == 0 && id.Kind != authz.UserSource && id.ID > 9 { // a path must not begin another one
				bad[id] = true
				all.Rules = append(all.Rules, at(faults[names[rnd.IntN(len(names))]], "/api/v4/"+sourcePath(id)).Rules...)
			}
		}
		o.sim.SetFaults(all)
		got, err := o.reader(nil).Refresh(t.Context(), base, ids)
		o.sim.SetFaults(gitlabsim.Faults{})
		if err != nil && len(bad) < len(ids) {
			t.Fatalf("seed %d: %v", seed, err)
		} else if err != nil {
			continue
		}
		if !maps.EqualFunc(bad, got.Missing, func(bool, string) bool { return true }) {
			t.Errorf("seed %d: missing %v, want %v", seed, got.Missing, bad)
		}
		clear(got.Missing)
		if d := diff(base, got); d != "" {
			t.Errorf("seed %d: (-known +read)\n%s", seed, d)
		}
	}
}

// TestKnownPeopleAreReadTogether: any number of accounts costs one request by GraphQL, and none of the kind that GitLab limits to 300
// in ten minutes, also when their names change.
func TestKnownPeopleAreReadTogether(t *testing.T) {
	t.Parallel()
	for _, after := range []string{"a full reading", "none"} {
		o := newOrg(t)
		r := o.reader(nil)
		base := o.want(true)
		if after != "none" {
			var err error
			base, err = r.Snapshot(t.Context())
			o.ok(err)
		}
		before := r.Requests()
		var ids []authz.SourceID
		for id := range base.Users {
			ids = append(ids, authz.UserID(id))
		}
		o.ok(o.w.SetUserState(o.id["bob"], gitlabsim.StateBlocked))
		o.ok(o.w.RenameUser(o.id["alice"], "alicia"))
		got, err := r.Refresh(t.Context(), base, ids)
		o.ok(err)
		if d := diff(o.want(true), got); d != "" {
			t.Errorf("after %s (-GitLab +Refresh)\n%s", after, d)
		}
		if n := r.Requests(); n["user"] != before["user"] || n["graphql"] != before["graphql"]+1 {
			t.Errorf("after %s: requests %v, before %v", after, n, before)
		}
	}
}
