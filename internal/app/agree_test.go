package app_test

import (
	cryptorand "crypto/rand"
	"crypto/rsa"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// organisation fills a World at random: nested groups, invited groups in both directions, share locks, rows that
// end, blocked people, bots, odd levels. Refused mutations (a group shared with itself, a lower level than an
// inherited one …) are GitLab's own rules and are left out.
func organisation(r *rand.Rand, w *gitlabsim.World) {
	const users, groups, projects = 12, 9, 10
	levels := []int{5, 10, 15, 20, 25, 30, 40, 50}
	ends := []string{"", "", "", "2026-01-01", time.Now().UTC().Format(time.DateOnly), "2099-12-31"}
	pick := func(ids []int64) int64 { return ids[r.IntN(len(ids))] }
	var us, gs, ps []int64
	for i := range users {
		kind, state := "HUMAN", "active"
		switch r.IntN(8) {
		case 0:
			state = "blocked"
		case 1:
			kind = "PROJECT_BOT"
		case 2:
			state = "deactivated"
		}
		if id, err := w.AddUser(gitlabsim.User{Username: fmt.Sprintf("u%d", i), State: state, Type: kind}); err == nil {
			us = append(us, id)
		}
	}
	for i := range groups {
		g := gitlabsim.Group{Path: fmt.Sprintf("g%d", i), Name: "g", Visibility: "private", ShareWithGroupLock: r.IntN(5) == 0}
		if len(gs) > 0 && r.IntN(3) > 0 {
			g.ParentID = pick(gs)
		}
		if id, err := w.AddGroup(g); err == nil {
			gs = append(gs, id)
		}
	}
	for i := range projects {
		if id, err := w.AddProject(gitlabsim.Project{NamespaceID: pick(gs), Path: fmt.Sprintf("p%d", i), Name: "p", Visibility: "private"}); err == nil {
			ps = append(ps, id)
		}
	}
	for range 50 {
		level, end := levels[r.IntN(len(levels))], ends[r.IntN(len(ends))]
		var err error
		switch r.IntN(5) {
		case 0, 1:
			err = w.SetMember(gitlabsim.KindGroup, pick(gs), pick(us), level, end)
		case 2:
			err = w.SetMember(gitlabsim.KindProject, pick(ps), pick(us), level, end)
		case 3:
			err = w.ShareGroup(pick(gs), pick(gs), level, end)
		case 4:
			err = w.ShareProject(pick(ps), pick(gs), level, end)
		}
		_ = err // refused by GitLab's rules: the organisation just has one row fewer
	}
}

// TestRightsAgreeWithGitLab: for any organisation, read by either API, the levels that authz computes are those that
// the simulated GitLab itself answers, which shares no code with it.
func TestRightsAgreeWithGitLab(t *testing.T) {
	const organisations = 60
	given := 0
	key, err := rsa.GenerateKey(cryptorand.Reader, 2048) // one for all: making keys takes longer than reading
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(organisations) {
		server, err := gitlabsim.New(gitlabsim.Options{Seed: []byte("users: [{username: root, admin: true}]"), UserKey: key, CIKey: key})
		if err != nil {
			t.Fatal(err)
		}
		organisation(rand.New(rand.NewPCG(seed, 7)), server.World())
		token := server.TokenFor("root", "read_api")
		for _, rest := range []bool{false, true} {
			reader, err := gitlab.NewReader(gitlab.Options{
				BaseURL: server.URL(), HTTPClient: server.Client(), RESTOnly: rest, IncludeUsers: true, NoPacing: true,
				Token: func() (string, error) { return token, nil },
			})
			if err != nil {
				t.Fatal(err)
			}
			snap, err := reader.Snapshot(t.Context())
			if err != nil || len(snap.Missing) > 0 || snap.MissingAll != "" {
				t.Fatalf("seed %d: %v %v %v", seed, err, snap.Missing, snap.MissingAll)
			}
			given += compare(t, fmt.Sprintf("seed %d, rest %v", seed, rest), snap, server)
		}
		server.Close()
		if t.Failed() {
			return
		}
	}
	if given < organisations*20 {
		t.Errorf("only %d rights in %d organisations: the generator makes nothing worth comparing", given, organisations)
	}
}

// compare applies GitLab's nightly job first: authz counts an expiry on the day itself.
func compare(t *testing.T, name string, snap *authz.Snapshot, server *gitlabsim.Server) (given int) {
	t.Helper()
	now := time.Now()
	server.World().RemoveExpired()
	server.World().View(func(v *gitlabsim.View) {
		check := func(id authz.SourceID, level func(user int64) int) {
			got := authz.Members(snap, id, now)
			for _, u := range v.Users() {
				want := level(u.ID)
				if int(got[u.ID].Level) != want {
					t.Errorf("%s: user %d has level %d in %s, GitLab says %d", name, u.ID, got[u.ID].Level, id, want)
				}
				if want > 0 {
					given++
				}
			}
		}
		for _, g := range v.Groups() {
			check(authz.Group(g.ID), func(u int64) int { return v.GroupLevel(g.ID, u) })
		}
		for _, p := range v.Projects() {
			check(authz.Project(p.ID), func(u int64) int { return v.ProjectLevel(p.ID, u) })
		}
	})
	return given
}
