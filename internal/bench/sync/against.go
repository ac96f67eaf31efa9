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
)

// secondAdmin has the tokens of the other build.
const secondAdmin = "root-2"

// planTurns is how often each build plans, at least: single plans take a fifth of a second, and differ by a third of it.
const planTurns = 9

var planLine = regexp.MustCompile(`(?m)^BENCH sync\.plan_seconds (\S+) s$`)

// comparePlans compares how long the plan of everything takes. A plan is made inside of a process, so this is measured by the
// benchmarks of both builds: each reads its own GitLab of the same content and plans.
func comparePlans(ctx context.Context, b *bench) error {
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
	for turn := range max(planTurns, b.o.turns) {
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

// againstManifests are those of the other build, if its source is there.
func (o *options) againstManifests() string {
	if o.againstSource == "" {
		return ""
	}
	return filepath.Join(o.againstSource, "deploy", "manifests")
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
