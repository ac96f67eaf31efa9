package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Names of what a release has beside what has its version in the name.
const (
	sumsName  = "SHA256SUMS"
	notesName = "release-notes.md"
)

// forRelease are the platforms of the programs in a release: those of the image, and those of laptops, where plan, doctor
// and token inspect run.
func forRelease() []platform {
	return append(forImage(), platform{"darwin", "amd64"}, platform{"darwin", "arm64"}, platform{"windows", "amd64"})
}

// forPlugin are the platforms of the plug-in: those of laptops.
func forPlugin() []platform { return append(forRelease(), platform{"windows", "arm64"}) }

func parsePlatforms(list string) (out []platform, err error) {
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(forPlugin(), func(p platform) bool { return p.String() == name })
		if i < 0 {
			return nil, fmt.Errorf("%q is none of %v", name, forPlugin())
		}
		out = append(out, forPlugin()[i])
	}
	return out, nil
}

// releaseVersion is a version as in semver.org, with a v; what follows a plus can't be in the tag of an image.
var releaseVersion = regexp.MustCompile(`^v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$`)

// folderURL is a URL that needs no quotes in YAML.
var folderURL = regexp.MustCompile(`^https://[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._~%/+-]*)?$`)

// release writes all files of a release into a new folder: programs, plug-in, deploy and docs, chart, image, notes, and the sums of
// all of them. They are made from the commit that is checked out, and from nothing else of the folder. o.created is not
// looked at: it is the time of that commit.
func release(ctx context.Context, o options, platforms []platform, out io.Writer) (err error) {
	begun := time.Now()
	defer func() {
		if err != nil {
			err = fmt.Errorf("FAIL: release %s:\n%w", o.version, err)
		}
	}()
	notes, commit, err := checkRelease(ctx, &o)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "gl-k8s-release-")
	if err != nil {
		return fmt.Errorf("making a folder to build in: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	if err := os.MkdirAll(o.out, 0o750); err != nil {
		return fmt.Errorf("making the folder to write to: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(o.out)) // it was empty, and half a release is none
		}
	}()
	r := releasing{options: o, commit: commit, work: work, source: filepath.Join(work, "source"), platforms: platforms, notes: notes, progress: out}
	for i, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"the source: commit " + commit, r.export},
		{"programs, for each platform some minutes the first time", r.compile},
		{"kubectl gitlab, and its manifest for krew", r.plugin},
		{"deploy and docs", r.files},
		{"the chart", r.chart},
		{"the image", r.image},
		{"notes, sums and signatures", r.sums},
	} {
		fmt.Fprintf(out, "== release %d/7: %s\n", i+1, step.what)
		if err := step.do(ctx); err != nil {
			return err
		}
	}
	fmt.Fprint(out, r.list)
	if o.key == "" {
		fmt.Fprintln(out, withoutKey)
	}
	fmt.Fprintf(out, "PASS: release %s of commit %s is in %s after %.0f s. docs/release.md says what to do with it\n", o.version, commit, o.out, time.Since(begun).Seconds())
	return nil
}

// checkRelease finds all reasons against a release before anything is built, and returns its notes and its commit. It
// fills in the time of the commit.
func checkRelease(ctx context.Context, o *options) (notes, commit string, err error) {
	var faults []error
	add := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if !releaseVersion.MatchString(o.version) {
		add("%q is no version: give one as in VERSION=v1.2.3 or v1.2.3-rc.1", o.version)
	}
	if o.key != "" {
		if _, err := readKey(o.key); err != nil {
			add("reading the key %s: %w", o.key, err)
		}
	}
	if o.url != "" && !folderURL.MatchString(o.url) {
		add("%q is no URL of a folder: give one as in URL=https://files.example.com/v1.2.3", o.url)
	}
	if left, err := os.ReadDir(o.out); err == nil && len(left) > 0 {
		add("%s is not empty: remove what was made before", o.out)
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		add("looking into the folder to write to: %w", err)
	}
	commit, err = git(ctx, o.source, "rev-parse", "HEAD")
	if err != nil {
		return "", "", errors.Join(append(faults, fmt.Errorf("%w: a release is made of a commit", err))...)
	}
	if changed, err := git(ctx, o.source, "status", "--porcelain"); err != nil {
		add("%w", err)
	} else if changed != "" {
		add("files differ from the commit: commit or remove them\n%s", changed)
	}
	if tagged, err := git(ctx, o.source, "rev-parse", "--quiet", "--verify", "refs/tags/"+o.version+"^{commit}"); err == nil && tagged != commit {
		add("the tag %s is on another commit, %s: check that out, or choose another version", o.version, tagged)
	}
	if seconds, err := git(ctx, o.source, "log", "-1", "--format=%ct", commit); err != nil {
		add("%w", err)
	} else if at, err := strconv.ParseInt(seconds, 10, 64); err != nil {
		add("the time of the commit: %w", err)
	} else {
		o.created = time.Unix(at, 0).UTC()
	}
	changelog, err := git(ctx, o.source, "show", commit+":docs/CHANGELOG.md")
	if err != nil {
		add("%w", err)
	} else if notes, err = cutNotes(changelog, o.version); err != nil {
		add("docs/CHANGELOG.md: %w", err)
	}
	return notes, commit, errors.Join(faults...)
}

func git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimRight(stdout.String(), "\n"), nil
}

// cutNotes returns what the changelog says of a version: in a section of its name, or under Unreleased as long as there is
// none.
func cutNotes(changelog, version string) (string, error) {
	sections := map[string]string{}
	for _, s := range strings.Split("\n"+changelog, "\n## ")[1:] {
		heading, text, _ := strings.Cut(s, "\n")
		name, _, _ := strings.Cut(heading, " ")
		sections[name] = strings.TrimSpace(text)
	}
	text, own := sections[version]
	switch {
	case own && sections["Unreleased"] != "":
		return "", fmt.Errorf("entries under Unreleased beside those of %s: move them there, or choose the next version", version)
	case !own:
		text = sections["Unreleased"]
	}
	if text == "" {
		return "", fmt.Errorf("nothing under %s or Unreleased: write what has changed, and what to do", version)
	}
	return "# gl-k8s-integrator " + version + "\n\n" + text + "\n", nil
}

// releasing is a release that is being made.
type releasing struct {
	options
	commit       string
	work, source string // folders
	platforms    []platform
	programs     []program // the integrator
	notes        string
	progress     io.Writer
	list         string // the sums, at the end
}

// export writes the files of the commit into a folder of their own, so that nothing else gets into a release.
func (r *releasing) export(ctx context.Context) error {
	if err := os.Mkdir(r.source, 0o750); err != nil {
		return fmt.Errorf("making a folder for the source: %w", err)
	}
	// Of a repository of its own: attributes and filters of the checkout could change or leave out files.
	bare, archive := filepath.Join(r.work, "commit.git"), filepath.Join(r.work, "source.tar")
	if _, err := git(ctx, r.options.source, "clone", "--quiet", "--bare", ".", bare); err != nil {
		return err
	}
	if _, err := git(ctx, bare, "-c", "core.autocrlf=false", "-c", "core.eol=lf", "-c", "core.attributesFile=/dev/null",
		"archive", "--format=tar", "--output="+archive, r.commit); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "tar", "-xf", archive, "-C", r.source).CombinedOutput(); err != nil {
		return fmt.Errorf("unpacking the commit: %w: %s", err, out)
	}
	r.options.source = r.source
	return nil
}

func (r *releasing) compile(ctx context.Context) (err error) {
	r.programs, err = r.build(ctx, integrator, forRelease())
	return err
}

func (r *releasing) plugin(ctx context.Context) error {
	programs, err := r.build(ctx, plugin, forPlugin())
	if err != nil {
		return err
	}
	return r.krew(programs)
}

// build compiles and packs a program for those of the release's platforms that it is made for.
func (r *releasing) build(ctx context.Context, name string, platforms []platform) (programs []program, err error) {
	license, err := os.ReadFile(filepath.Join(r.source, "LICENSE"))
	if err != nil {
		return nil, fmt.Errorf("reading the license: %w", err)
	}
	for _, on := range platforms {
		if !slices.Contains(r.platforms, on) {
			continue
		}
		begun := time.Now()
		built, err := compile(ctx, r.options, name, r.work, []platform{on})
		if err != nil {
			return nil, err
		}
		content, err := os.ReadFile(built[0].path)
		if err != nil {
			return nil, fmt.Errorf("reading the program: %w", err)
		}
		if err := r.pack(r.folder(built[0]), []entry{{built[0].file(), 0o755, content}, {"LICENSE", 0o644, license}}); err != nil {
			return nil, err
		}
		programs = append(programs, built...)
		fmt.Fprintf(r.progress, "%s for %s, %.1f MB, after %.0f s\n", name, on, float64(len(content))/1e6, time.Since(begun).Seconds())
	}
	return programs, nil
}

// file is the name of a program's file.
func (p program) file() string {
	if p.os == "windows" {
		return p.name + ".exe"
	}
	return p.name
}

// folder is the name of a program's archive without its ending, and of the folder in it.
func (r *releasing) folder(p program) string {
	return p.name + "-" + r.version + "-" + p.os + "-" + p.arch
}

// files packs what the pages name: deploy, without Go, and the pages.
func (r *releasing) files(context.Context) error {
	root, err := os.OpenRoot(r.source)
	if err != nil {
		return fmt.Errorf("opening the source: %w", err)
	}
	defer func() { _ = root.Close() }() // it was only read
	var entries []entry
	add := func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) == ".go" {
			return err
		}
		content, err := root.ReadFile(path)
		entries = append(entries, entry{path, 0o644, content})
		return err
	}
	for _, top := range []string{"LICENSE", "README.md", "SECURITY.md", "deploy", "docs"} {
		if err := fs.WalkDir(root.FS(), top, add); err != nil {
			return fmt.Errorf("reading %s: %w", top, err)
		}
	}
	return r.pack(integrator+"-"+r.version+"-deploy", entries)
}

// chart packs the chart with helm, of the version that the chart is tested with.
func (r *releasing) chart(ctx context.Context) (err error) {
	find := exec.CommandContext(ctx, "go", "tool", "-modfile=internal/chart/helm/go.mod", "-n", "helm")
	find.Dir = r.source
	if find.Env, err = buildEnv(ctx); err != nil {
		return err
	}
	var stderr bytes.Buffer
	find.Stderr = &stderr
	helm, err := find.Output()
	if err != nil {
		return fmt.Errorf("building helm: %w\n%s", err, &stderr)
	}
	cmd := exec.CommandContext(ctx, strings.TrimSpace(string(helm)), "package", filepath.Join(r.source, "deploy/chart"), "--destination", r.out,
		"--version", strings.TrimPrefix(r.version, "v"), "--app-version", r.version)
	cmd.Env = []string{"HOME=" + r.work, "PATH=/usr/bin:/bin", fmt.Sprintf("SOURCE_DATE_EPOCH=%d", r.created.Unix())}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("packing the chart: %w\n%s", err, out)
	}
	return nil
}

func (r *releasing) image(context.Context) error {
	linux := slices.DeleteFunc(slices.Clone(r.programs), func(p program) bool { return p.os != "linux" })
	if len(linux) == 0 {
		return errors.New("an image needs a program for linux")
	}
	_, err := writeImage(r.options, linux, r.work)
	return err
}

// sums writes the notes, and the sums of all files, which tell at last that all of them are there.
func (r *releasing) sums(context.Context) error {
	if err := os.WriteFile(filepath.Join(r.out, notesName), []byte(r.notes), 0o644); err != nil {
		return fmt.Errorf("writing the notes: %w", err)
	}
	files, err := os.ReadDir(r.out)
	if err != nil {
		return fmt.Errorf("listing the files: %w", err)
	}
	for _, f := range files {
		if filepath.Ext(f.Name()) == ".sig" {
			continue
		}
		content, err := os.ReadFile(filepath.Join(r.out, f.Name()))
		if err != nil {
			return fmt.Errorf("reading what was made: %w", err)
		}
		r.list += fmt.Sprintf("%x  %s\n", sha256.Sum256(content), f.Name())
	}
	path := filepath.Join(r.out, sumsName)
	if err := os.WriteFile(path, []byte(r.list), 0o644); err != nil {
		return fmt.Errorf("writing the sums: %w", err)
	}
	return sign(r.key, path)
}

// entry is a file in an archive.
type entry struct {
	name    string
	mode    int64
	content []byte
}

// pack writes an archive with one folder, of the same name. It holds nothing of the machine: no users, no times but the
// commit's.
func (r *releasing) pack(name string, entries []entry) error {
	var out bytes.Buffer
	compressed, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return err
	}
	w := tar.NewWriter(compressed)
	for _, e := range entries {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name + "/" + e.name, Mode: e.mode, Size: int64(len(e.content)), ModTime: r.created}
		if err := w.WriteHeader(h); err != nil {
			return fmt.Errorf("packing %s: %w", name, err)
		}
		if _, err := w.Write(e.content); err != nil {
			return fmt.Errorf("packing %s: %w", name, err)
		}
	}
	if err := errors.Join(w.Close(), compressed.Close()); err != nil {
		return fmt.Errorf("packing %s: %w", name, err)
	}
	if err := os.WriteFile(filepath.Join(r.out, name+".tar.gz"), out.Bytes(), 0o644); err != nil {
		return fmt.Errorf("packing %s: %w", name, err)
	}
	return nil
}
