package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// secondAdmin has the tokens of the other build.
const secondAdmin = "root-2"

// versus prints the ratio of what was measured of this build and of the other one.
func (b *bench) versus(name string, ours, theirs float64, unit string) {
	b.line("against."+name, ours/theirs, "ratio")
	fmt.Fprintf(b.say, "%s: %.4g %s, of the other build %.4g %s\n", name, ours, unit, theirs, unit)
}

var planLine = regexp.MustCompile(`(?m)^BENCH sync\.plan_seconds (\S+) s$`)

// againstPlan compares how long the plan of everything takes. A plan is made inside of a process, so this is measured by the
// benchmarks of both builds: each reads its own GitLab of the same content and plans.
func (b *bench) againstPlan(ctx context.Context) error {
	if b.o.againstSource == "" {
		return nil
	}
	bench := filepath.Join(b.o.dir, "against-bench")
	if err := buildIn(ctx, b.o.againstSource, "./internal/bench/sync", bench); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	programs := []string{self, bench}
	took := map[string][]float64{}
	for turn := range max(2, b.o.turns) {
		for i := range programs {
			program := programs[(turn+i)%2]
			// The binary is not started, but has to be there.
			cmd := exec.CommandContext(ctx, program, "-read-only", "-binary", b.o.binary, "-scale", strconv.FormatFloat(b.o.scale, 'g', -1, 64))
			cmd.SysProcAttr = processAttr()
			var errors bytes.Buffer
			cmd.Stderr = &errors
			out, err := cmd.Output()
			if err != nil {
				return fmt.Errorf("planning with %s: %w\n%s", program, err, errors.Bytes())
			}
			m := planLine.FindSubmatch(out)
			if m == nil {
				return fmt.Errorf("%s prints no sync.plan_seconds:\n%s", program, out)
			}
			s, err := strconv.ParseFloat(string(m[1]), 64)
			if err != nil {
				return err
			}
			took[program] = append(took[program], s)
		}
	}
	b.versus("plan", median(took[self]), median(took[bench]), "s")
	return nil
}

// manifests are those of the other build, if its source is there.
func (b *bench) manifests() string {
	if b.o.againstSource == "" {
		return ""
	}
	return filepath.Join(b.o.againstSource, "deploy", "manifests")
}

// buildIn builds a package of another checkout.
func buildIn(ctx context.Context, source, pkg, binary string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, pkg)
	cmd.Dir = source
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s in %s: %w\n%s", pkg, source, err, out)
	}
	return nil
}

// againstFirst compares first rounds. This build has done one and runs; afterwards both run.
func (b *bench) againstFirst(ctx context.Context, ours, other *side, objects *objects) error {
	ours.serve.stop() // a round of one would be in the other's way
	if err := b.raw(ctx, objects, "raw"); err != nil {
		return err
	}
	for turn := 1; turn < b.o.turns; turn++ { // on clusters that are not needed afterwards, each first as often as the other
		order := []*side{{name: other.name, binary: other.binary, manifests: other.manifests, user: other.user}, {binary: ours.binary}}
		if turn%2 == 0 {
			order[0], order[1] = order[1], order[0]
		}
		for _, s := range order {
			if err := b.once(ctx, s, fmt.Sprintf("turn-%d", turn)); err != nil {
				return err
			}
			kept := ours
			if s.name != "" {
				kept = other
			}
			kept.first, kept.rates = append(kept.first, s.first...), append(kept.rates, s.rates...)
		}
		if err := b.raw(ctx, objects, fmt.Sprintf("raw-%d", turn)); err != nil {
			return err
		}
	}
	if _, err := b.begin(ctx, other, "product"); err != nil {
		return err
	}
	b.versus("first_round", float64(median(ours.first))/1e9, float64(median(other.first))/1e9, "s")
	b.versus("apply_vs_raw", median(ours.rates)/median(b.raws), median(other.rates)/median(b.raws), "of a bare client's rate")
	b.freshMinute()
	if err := ours.serve.start(ctx); err != nil {
		return err
	}
	return b.ready(ctx, ours.cluster, ours.serve)
}

// once does a first round on a cluster that goes away with it.
func (b *bench) once(ctx context.Context, s *side, dir string) error {
	_, err := b.begin(ctx, s, dir)
	if failed := s.end(); err == nil {
		err = failed
	}
	return err
}

// freshMinute forgets which requests GitLab has counted: what starts now starts with all it may ask.
func (b *bench) freshMinute() { b.gitlab.SetRateLimits(gitlabsim.DefaultRateLimits()) }
