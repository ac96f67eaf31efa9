package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// stage is what one kind of hanging is about: users and projects of its own, so that no kind has to do with what another
// one left.
type stage struct {
	group, project   int64 // what hangs, if it is one id; the project is in the group
	inGroup, user    int64 // members of each of them; the user, too, is what hangs
	visitor          int64 // whose membership there changes all the time
	visits           int
	away             []int64 // projects elsewhere
	blocked, removed int64   // members of the first and the second of these
}

// hangKind is one way in which a part of GitLab fails for ever.
type hangKind struct {
	name string
	rule func(s *stage) gitlabsim.FaultRule
	// hit is whose right the program can't take away, because what it would have to read hangs; begin takes it in GitLab.
	hit      func(s *stage) int64
	begin    func(w *gitlabsim.World, s *stage) error
	accounts bool // it is an account that begin changes, not a membership
	// again makes the program ask for what hangs.
	again func(w *gitlabsim.World, s *stage) error
	// interval between full readings: short where these hang, and else so long that none does what is for hooks and polls.
	interval time.Duration
}

// wholeGitLab is the kind in which nothing of GitLab can be read: no block and no removal can be known.
const wholeGitLab = "gitlab"

// tooMany is GitLab's answer to who is over a limit (lib/gitlab/application_rate_limiter.rb): without Retry-After.
const tooMany = `{"message":{"error":"This endpoint has been requested too many times. Try again later."}}`

func hangKinds() []hangKind {
	json := http.Header{"Content-Type": {"application/json"}}
	api := func(kind string, id int64) string { return "/api/v4/" + kind + "/" + strconv.FormatInt(id, 10) }
	inProject := hangKind{
		hit: func(s *stage) int64 { return s.user },
		begin: func(w *gitlabsim.World, s *stage) error {
			return w.RemoveMember(gitlabsim.KindProject, s.project, s.user)
		},
		again: func(w *gitlabsim.World, s *stage) error { return s.visit(w, gitlabsim.KindProject, s.project) },
	}
	inGroup := hangKind{
		hit: func(s *stage) int64 { return s.inGroup },
		begin: func(w *gitlabsim.World, s *stage) error {
			return w.RemoveMember(gitlabsim.KindGroup, s.group, s.inGroup)
		},
		again: func(w *gitlabsim.World, s *stage) error { return s.visit(w, gitlabsim.KindGroup, s.group) },
	}
	ofUser := hangKind{
		hit: func(s *stage) int64 { return s.user }, accounts: true,
		begin: func(w *gitlabsim.World, s *stage) error { return w.SetUserState(s.user, gitlabsim.StateBlocked) },
		again: func(w *gitlabsim.World, s *stage) error { // sends a hook, which a block does not
			s.visits++
			return w.RenameUser(s.user, fmt.Sprintf("renamed-%d-%d", s.user, s.visits))
		},
	}
	const short, long = 10 * time.Second, 5 * time.Minute
	one := func(k hangKind, name string, interval time.Duration, rule func(s *stage) gitlabsim.FaultRule) hangKind {
		k.name, k.interval, k.rule = name, interval, rule
		return k
	}
	return []hangKind{
		one(inProject, "project", long, func(s *stage) gitlabsim.FaultRule {
			return gitlabsim.FaultRule{Path: api("projects", s.project), Hang: true}
		}),
		one(inProject, "project_500", long, func(s *stage) gitlabsim.FaultRule {
			return gitlabsim.FaultRule{Path: api("projects", s.project), Status: http.StatusInternalServerError, Header: json, Body: `{"message":"500 Internal Server Error"}`}
		}),
		one(inGroup, "group", long, func(s *stage) gitlabsim.FaultRule {
			return gitlabsim.FaultRule{Path: api("groups", s.group), Hang: true}
		}),
		one(ofUser, "user_429", long, func(s *stage) gitlabsim.FaultRule {
			return gitlabsim.FaultRule{Path: api("users", s.user), Status: http.StatusTooManyRequests, Header: json, Body: tooMany}
		}),
		one(ofUser, "users_429", long, func(*stage) gitlabsim.FaultRule {
			return gitlabsim.FaultRule{PathPrefix: "/api/v4/users/", Status: http.StatusTooManyRequests, Header: json, Body: tooMany}
		}),
		one(inProject, "graphql", short, func(*stage) gitlabsim.FaultRule {
			return gitlabsim.FaultRule{Path: "/api/graphql", Hang: true}
		}),
		one(inProject, wholeGitLab, short, func(*stage) gitlabsim.FaultRule { return gitlabsim.FaultRule{Hang: true} }),
	}
}

// visit changes the level of somebody, which sends a hook.
func (s *stage) visit(w *gitlabsim.World, kind gitlabsim.SourceKind, id int64) error {
	s.visits++
	return w.SetMember(kind, id, s.visitor, []int{gitlabsim.Developer, gitlabsim.Maintainer}[s.visits%2], "")
}

// measureHangs measures, for each kind, what still goes on while a part of GitLab hangs: a small organisation is enough for that.
func measureHangs(ctx context.Context, b *bench) (err error) {
	var kinds []hangKind
	for _, k := range hangKinds() {
		if b.o.kinds == "" || strings.Contains(","+b.o.kinds+",", ","+k.name+",") {
			kinds = append(kinds, k)
		}
	}
	if len(kinds) == 0 {
		return fmt.Errorf("no such kind: -kinds %q", b.o.kinds)
	}
	world, stages, err := hangWorld(len(kinds))
	if err != nil {
		return fmt.Errorf("making the organisation: %w", err)
	}
	// Without GitLab's limits: what is refused is what the kind says.
	if b.gitlab, err = gitlabsim.New(gitlabsim.Options{World: world}); err != nil {
		return err
	}
	defer b.gitlab.Close()
	c, err := startCluster(ctx, filepath.Join(b.o.dir, "hang"), "", b.say)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	for i, k := range kinds {
		if err := hangOne(ctx, b, c, k, stages[i]); err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
	}
	return nil
}

// hangWorld makes about 200 projects in 20 groups, and one stage for each kind.
func hangWorld(kinds int) (*gitlabsim.World, []*stage, error) {
	w := gitlabsim.NewWorld(nil)
	var err error
	user := func(name string) (id int64) {
		if err == nil {
			id, err = w.AddUser(gitlabsim.User{Username: name, Name: name, CreatedAt: born(0)})
		}
		return id
	}
	group := func(name string, members ...gitlabsim.Member) (id int64) {
		if err == nil {
			id, err = w.AddGroup(gitlabsim.Group{Path: name, Name: name, CreatedAt: born(1), Members: members})
		}
		return id
	}
	project := func(in int64, name string, members ...int64) (id int64) {
		p := gitlabsim.Project{NamespaceID: in, Path: name, Name: name, CreatedAt: born(2)}
		for _, m := range members {
			p.Members = append(p.Members, gitlabsim.Member{UserID: m, Level: gitlabsim.Developer})
		}
		if err == nil {
			id, err = w.AddProject(p)
		}
		return id
	}
	if _, err := w.AddUser(gitlabsim.User{Username: "root", Admin: true}); err != nil {
		return nil, nil, err
	}
	for g := range 20 - 2*kinds {
		in := group(fmt.Sprintf("rest-%d", g))
		for p := range 10 {
			project(in, fmt.Sprintf("project-%d", p), user(fmt.Sprintf("someone-%d-%d", g, p)))
		}
	}
	var stages []*stage
	for k := range kinds {
		s := &stage{
			user: user(fmt.Sprintf("stuck-%d", k)), visitor: user(fmt.Sprintf("visitor-%d", k)),
			inGroup: user(fmt.Sprintf("in-group-%d", k)),
			blocked: user(fmt.Sprintf("blocked-%d", k)), removed: user(fmt.Sprintf("removed-%d", k)),
		}
		stayer := user(fmt.Sprintf("stayer-%d", k))
		s.group = group(fmt.Sprintf("group-%d", k), gitlabsim.Member{UserID: s.inGroup, Level: gitlabsim.Developer})
		s.project = project(s.group, "stuck", s.user)
		away := group(fmt.Sprintf("away-%d", k))
		for p, members := range [][]int64{{s.blocked, stayer}, {s.removed, stayer}, {stayer}, {stayer}, {stayer}, {stayer}, {stayer}, {stayer}, {stayer}, {stayer}} {
			s.away = append(s.away, project(away, fmt.Sprintf("project-%d", p), members...))
		}
		stages = append(stages, s)
	}
	return w, stages, err
}
