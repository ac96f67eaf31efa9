package app_test

import (
	cryptorand "crypto/rand"
	"crypto/rsa"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// TestRightsAgreeWithGitLab: for any organisation, read by either API, the levels that authz computes are those that
// the simulated GitLab itself answers, which shares no code with it.
func TestRightsAgreeWithGitLab(t *testing.T) {
	const organisations = 60
	key, err := rsa.GenerateKey(cryptorand.Reader, 2048) // one for all: making keys takes longer than reading
	if err != nil {
		t.Fatal(err)
	}
	var given atomic.Int64
	t.Cleanup(func() {
		if given.Load() < organisations*20 {
			t.Errorf("only %d rights in %d organisations: the generator makes nothing worth comparing", given.Load(), organisations)
		}
	})
	for seed := range uint64(organisations) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			given.Add(int64(agreeing(t, seed, key)))
		})
	}
}

// agreeing compares one organisation, and returns how many rights it has.
func agreeing(t *testing.T, seed uint64, key *rsa.PrivateKey) (given int) {
	server, err := gitlabsim.New(gitlabsim.Options{Seed: []byte("users: [{username: root, admin: true}]"), UserKey: key, CIKey: key})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	generate(rand.New(rand.NewPCG(seed, 7)), server.World(), "", shape{users: 12, groups: 9, projects: 10, rows: 50})
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
	return given
}

// compare applies GitLab's nightly job first: authz counts an expiry on the day itself.
func compare(t *testing.T, name string, snap *authz.Snapshot, server *gitlabsim.Server) (given int) {
	t.Helper()
	now := time.Now()
	server.World().RemoveExpired()
	server.World().View(func(v *gitlabsim.View) {
		resolver := authz.NewResolver(snap, now)
		check := func(id authz.SourceID, level func(user int64) int) {
			got := resolver.Members(id)
			for _, u := range v.Users() {
				want := level(u.ID)
				if int(got.Level(u.ID)) != want {
					t.Errorf("%s: user %d has level %d in %s, GitLab says %d", name, u.ID, got.Level(u.ID), id, want)
				}
				if want > 0 {
					given++
				}
			}
		}
		for _, g := range v.Groups() {
			check(authz.GroupID(g.ID), func(u int64) int { return v.GroupLevel(g.ID, u) })
		}
		for _, p := range v.Projects() {
			check(authz.ProjectID(p.ID), func(u int64) int { return v.ProjectLevel(p.ID, u) })
		}
	})
	return given
}
