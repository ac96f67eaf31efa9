package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"debug/elf"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdxlib"
)

// TestImage builds the image once and looks at it from all sides, then builds it again from a copy of the source.
func TestImage(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds the program for two architectures")
	}
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("needs openssl")
	}
	dir := t.TempDir()
	shell(t, dir, block(t, "image", "sh key"))
	key := filepath.Join(dir, "image.key")
	o := options{source: "../..", out: filepath.Join(dir, "bin"), version: "v1.2.3", created: time.Unix(1_700_000_000, 0).UTC(), key: key}
	digest, err := build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	index := readArchive(t, filepath.Join(o.out, archiveName), o.version, digest)
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, m := range manifest.Manifests {
		have = append(have, m.Platform.OS+"/"+m.Platform.Architecture)
		image, err := index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(m.Platform.Architecture, func(t *testing.T) { checkImage(t, o, image, m.Platform.Architecture) })
	}
	if want := []string{"linux/amd64", "linux/arm64"}; !slices.Equal(want, have) {
		t.Errorf("platforms %v, want %v", have, want)
	}
	t.Run("contents", func(t *testing.T) { checkSBOM(t, o, digest) })
	t.Run("signature", func(t *testing.T) { checkSignatures(t, dir, o) })
	t.Run("skopeo", func(t *testing.T) { checkCopy(t, dir, digest) })
	t.Run("again", func(t *testing.T) {
		again := o
		again.source, again.out = filepath.Join(t.TempDir(), "copy"), filepath.Join(t.TempDir(), "elsewhere", "out")
		copySource(t, o.source, again.source)
		t.Setenv("TZ", "Asia/Kathmandu")
		t.Setenv("GOFLAGS", "-ldflags=-X=main.version=other")
		t.Setenv("GOENV", environment(t, "GOFLAGS=-tags=other -ldflags=-X=main.version=other"))
		if _, err := build(t.Context(), again); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{archiveName, archiveName + ".sig", sbomName, sbomName + ".sig"} {
			if !bytes.Equal(read(t, filepath.Join(o.out, name)), read(t, filepath.Join(again.out, name))) {
				t.Errorf("%s is another one, built from a copy of the source", name)
			}
		}
	})
}

// readArchive unpacks the archive, checks every digest in it and returns its image.
func readArchive(t *testing.T, path, version, digest string) v1.ImageIndex {
	t.Helper()
	dir := t.TempDir()
	unpack(t, bytes.NewReader(read(t, path)), dir)
	l, err := layout.FromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	top, err := l.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	names, err := top.IndexManifest()
	if err != nil || len(names.Manifests) != 1 || names.Manifests[0].Digest.String() != digest ||
		names.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != version {
		t.Fatalf("the archive names %+v, %v", names, err)
	}
	index, err := top.ImageIndex(names.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	if kind, err := index.MediaType(); err != nil || kind != types.OCIImageIndex {
		t.Errorf("media type %s, %v", kind, err)
	}
	return index
}

// checkImage: nothing but the program and the CAs; no root user; static, and for this architecture.
func checkImage(t *testing.T, o options, image v1.Image, arch string) {
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Architecture != arch || config.Config.User != "65532:65532" || !slices.Equal(config.Config.Entrypoint, []string{"/gl-k8s-integrator"}) || !config.Created.Equal(o.created) {
		t.Errorf("configuration %+v", config)
	}
	deployment := string(read(t, "../../deploy/optional/deployment.yaml"))
	for _, want := range []string{"runAsUser: 65532", "runAsGroup: 65532", "command: [/gl-k8s-integrator,"} {
		if !strings.Contains(deployment, want) {
			t.Errorf("the Deployment does not say %q, as the image does", want)
		}
	}
	dir := filepath.Join(t.TempDir(), "root")
	content := mutate.Extract(image)
	files := unpack(t, content, dir)
	_ = content.Close()
	if want := []string{"etc/ssl/certs/ca-certificates.crt", "gl-k8s-integrator"}; !slices.Equal(want, files) {
		t.Errorf("files %v, want %v", files, want)
	}
	program := filepath.Join(dir, programPath)
	binary, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	if want := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[arch]; binary.Machine != want {
		t.Errorf("the program is for %v, want %v", binary.Machine, want)
	}
	for _, p := range binary.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the program is not static: it has %v", p.Type)
		}
	}
	n := 0
	for block, rest := pem.Decode(read(t, filepath.Join(dir, caPath))); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil || !c.IsCA {
			t.Errorf("CA %d: %v", n, err)
		}
		n++
	}
	if n < 80 {
		t.Errorf("only %d CAs", n)
	}
	if arch == hostArch(t) {
		runs(t, dir, o.version)
	}
}

func hostArch(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOHOSTARCH").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// runs starts the program as a container would: in a root that has nothing else, as a user that no machine has.
func runs(t *testing.T, dir, version string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Log("SKIPPED: only root can start a program in a root of its own")
		return
	}
	cmd := exec.CommandContext(t.Context(), "/"+programPath, "version")
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: dir, Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
	cmd.Dir, cmd.Env = "/", []string{}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), version) {
		t.Errorf("in an empty root: %v, %s", err, out)
	}
}

// checkSBOM: another program's code reads it, and it names each module of the program, and where the CAs are from.
func checkSBOM(t *testing.T, o options, digest string) {
	doc, err := spdxjson.Read(bytes.NewReader(read(t, filepath.Join(o.out, sbomName))))
	if err != nil {
		t.Fatal(err)
	}
	if err := spdxlib.ValidateDocument(doc); err != nil {
		t.Error(err)
	}
	have := map[string]bool{}
	for _, p := range doc.Packages {
		id := string(p.PackageSPDXIdentifier)
		if have[id] {
			t.Errorf("two packages are %s", id)
		}
		have[id] = true
		have[p.PackageName] = true
	}
	if sum := doc.Packages[0].PackageChecksums; len(sum) != 1 || "sha256:"+sum[0].Value != digest {
		t.Errorf("the image is %v, want %s", sum, digest)
	}
	out, err := exec.CommandContext(t.Context(), "go", "list", "-C", o.source, "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", "./cmd/gl-k8s-integrator").Output()
	if err != nil {
		t.Fatal(err)
	}
	modules := strings.Fields(string(out))
	if len(modules) < 30 {
		t.Fatalf("only %d modules", len(modules))
	}
	for _, m := range append(modules, "stdlib", rootsModule, "program-amd64", "program-arm64") {
		if !have[m] {
			t.Errorf("it does not name %s", m)
		}
	}
}

// checkSignatures: what docs/image.md says takes them, and openssl not for something else.
func checkSignatures(t *testing.T, dir string, o options) {
	check := block(t, "image", "sh check")
	for _, name := range []string{archiveName, sbomName} {
		if !strings.Contains(check, name) {
			t.Errorf("docs/image.md does not check %s", name)
		}
	}
	shell(t, dir, check)
	archive, list := filepath.Join(o.out, archiveName), filepath.Join(o.out, sbomName)
	if err := exec.CommandContext(t.Context(), "openssl", "dgst", "-sha256", "-verify", filepath.Join(dir, "image.pub"), "-signature", archive+".sig", list).Run(); err == nil {
		t.Error("the archive's signature is good for something else")
	}
}

// checkCopy: what docs/image.md says brings the image into a registry, with the digest that was printed.
func checkCopy(t *testing.T, dir, digest string) {
	if _, err := exec.LookPath("skopeo"); err != nil {
		t.Skip("skopeo is not installed: no foreign program reads the archive (.ci/run installs it)")
	}
	line := regexp.MustCompile(`(?m)^skopeo copy .*$`).FindString(string(read(t, "../../docs/image.md")))
	to := regexp.MustCompile(`docker://\S+$`)
	if !to.MatchString(line) {
		t.Fatalf("docs/image.md copies by %q", line)
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	shell(t, dir, to.ReplaceAllString(line, "--dest-tls-verify=false docker://"+host+"/gl-k8s-integrator:v1.2.3"))
	tag, err := name.NewTag(host+"/gl-k8s-integrator:v1.2.3", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if there, err := remote.Head(tag, remote.WithContext(t.Context())); err != nil || there.Digest.String() != digest {
		t.Errorf("the registry has %v, want %s: %v", there, digest, err)
	}
}

// block returns the text of a page's only block of that kind.
func block(t *testing.T, page, kind string) string {
	t.Helper()
	found := regexp.MustCompile("(?s)```"+kind+"\n(.*?)```").FindAllSubmatch(read(t, "../../docs/"+page+".md"), -1)
	if len(found) != 1 {
		t.Fatalf("docs/%s.md has %d blocks %q, want one", page, len(found), kind)
	}
	return string(found[0][1])
}

func shell(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-ec", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v in\n%s\n%s", err, script, out)
	}
}

// TestSign: which keys are taken, and that no signature of before stays beside a new file.
func TestSign(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		ok   bool
	}{
		"PKCS 8":      {[]string{"genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"}, true},
		"SEC 1":       {[]string{"ecparam", "-genkey", "-name", "prime256v1"}, true},
		"other curve": {[]string{"genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"}, false},
		"RSA":         {[]string{"genpkey", "-algorithm", "RSA"}, false},
	} {
		key := newKey(t, c.args...)
		if err := sign(key, file); (err == nil) != c.ok || (err != nil && !strings.Contains(err.Error(), "P-256")) {
			t.Errorf("%s: %v", name, err)
		}
		if !c.ok {
			continue
		}
		public := filepath.Join(t.TempDir(), "public.pem")
		openssl(t, "pkey", "-in", key, "-pubout", "-out", public)
		openssl(t, "dgst", "-sha256", "-verify", public, "-signature", file+".sig", file)
	}
	if err := sign(file, file); err == nil {
		t.Error("a file without a key is a key")
	}
	if err := errors.Join(sign("", file), sign("", file)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file + ".sig"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the signature of before is left: %v", err)
	}
}

func newKey(t *testing.T, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("needs openssl")
	}
	path := filepath.Join(t.TempDir(), "key.pem")
	openssl(t, append(args, "-out", path)...)
	return path
}

func openssl(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "openssl", args...).CombinedOutput(); err != nil {
		t.Fatalf("openssl %v: %v\n%s", args, err, out)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// unpack writes the files of a tar into a folder and returns their names, sorted.
func unpack(t *testing.T, r io.Reader, dir string) (names []string) {
	t.Helper()
	files := tar.NewReader(r)
	for {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			slices.Sort(names)
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o755)
		} else {
			names = append(names, h.Name)
			content, readErr := io.ReadAll(files)
			err = errors.Join(readErr, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, h.FileInfo().Mode().Perm()))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// copySource copies the repository, without what git and earlier builds keep in it.
func copySource(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch {
		case d.Name() == ".git" && !d.IsDir(): // of a worktree: it names the repository, which a copy must not write to
			return nil
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "bin" || d.Name() == "dist" || d.Name() == "node_modules"):
			return fs.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, relative), 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		return os.WriteFile(filepath.Join(to, relative), read(t, path), 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// environment is a file as go env -w writes it.
func environment(t *testing.T, lines string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte(lines+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
