package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// ciProjects is the size of the small GitLab in which the handing over of CI credentials is counted. Its cost is the
// same for each project.
const ciProjects = 40

// measureCI counts the requests to GitLab that hand CI credentials over, at first and in rounds without changes.
func measureCI(ctx context.Context, b *bench) (err error) {
	world := gitlabsim.NewWorld(nil)
	if _, err := world.AddUser(gitlabsim.User{Username: "root", Admin: true}); err != nil {
		return err
	}
	group, err := world.AddGroup(gitlabsim.Group{Path: "ci", Name: "ci", CreatedAt: born(0)})
	if err != nil {
		return err
	}
	for i := range ciProjects {
		if _, err := world.AddProject(gitlabsim.Project{NamespaceID: group, Path: fmt.Sprintf("project-%d", i), Name: "p", CreatedAt: born(i)}); err != nil {
			return err
		}
	}
	g, err := gitlabsim.New(gitlabsim.Options{World: world, RateLimits: gitlabsim.DefaultRateLimits()})
	if err != nil {
		return err
	}
	defer g.Close()
	c, err := startCluster(ctx, filepath.Join(b.o.dir, "ci"), "", b.say)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	p, err := startServe(ctx, g, c, setup{
		binary: b.o.binary, dir: filepath.Join(b.o.dir, "serve-ci"), interval: 10 * time.Second,
		concurrency: b.o.concurrency, delivery: "variables", extra: b.o.extra,
	})
	if err != nil {
		return err
	}
	defer p.stop()
	variables := func() (n int) {
		for kind, count := range g.Requests() {
			if strings.Contains(kind, "/variables") {
				n += count
			}
		}
		return n
	}
	ready := func() (n int) {
		world.View(func(v *gitlabsim.View) {
			for _, p := range v.Projects() {
				for _, va := range p.Variables {
					if va.Key == "KUBE_TOKEN" {
						n++
					}
				}
			}
		})
		return n
	}
	deadline := time.Now().Add(3 * time.Minute)
	for ready() < ciProjects {
		if time.Now().After(deadline) {
			return fmt.Errorf("only %d of %d projects have their CI variables", ready(), ciProjects)
		}
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
	for n := -1; n != variables(); { // until it is quiet
		n = variables()
		if err := pause(ctx, 3*time.Second); err != nil {
			return err
		}
	}
	first := variables()
	b.line("ci.provision_requests_per_project", float64(first)/ciProjects, "requests")
	rounds, _ := p.fullRounds(ctx)
	for now := rounds; now < rounds+2; now, _ = p.fullRounds(ctx) {
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
	b.line("ci.steady_requests", variables()-first, "requests")
	return nil
}
