package main

import (
	"archive/tar"
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// user is who the program runs as: nobody that a machine has. The chart and deploy/optional/deployment.yaml say the same.
const user = "65532:65532"

// Paths in the image. The second is where Go looks for CAs first.
const (
	programPath = "gl-k8s-integrator"
	caPath      = "etc/ssl/certs/ca-certificates.crt"
)

// writeArchive writes an OCI archive (a tar of an image layout) with one image for each program, and returns the digest of
// the index that names them.
func writeArchive(o options, programs []program, folder, path string) (string, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, p := range programs {
		image, err := imageOf(o, p)
		if err != nil {
			return "", err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: plain{image}, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "linux", Architecture: p.arch},
		}})
	}
	digest, err := index.Digest()
	if err != nil {
		return "", fmt.Errorf("computing the digest: %w", err)
	}
	l, err := layout.Write(folder, empty.Index)
	if err != nil {
		return "", fmt.Errorf("writing the image layout: %w", err)
	}
	name := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": o.version})
	if err := l.AppendIndex(index, name); err != nil {
		return "", fmt.Errorf("writing the image layout: %w", err)
	}
	return digest.String(), pack(folder, path, o.created)
}

// plain is an image whose entry in an index has no artifactType. It would say no more than that this is an image, and
// older tools (skopeo 1.9) lose it when they copy, so that the digest is another one.
type plain struct{ v1.Image }

// ArtifactType is what the entry says.
func (plain) ArtifactType() (string, error) { return "", nil }

// imageOf returns the image for one architecture: one layer, and how to start what is in it.
func imageOf(o options, p program) (v1.Image, error) {
	content, err := os.ReadFile(p.path)
	if err != nil {
		return nil, fmt.Errorf("reading the program: %w", err)
	}
	files, err := root(content, certificates(), o.created)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files)), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, fmt.Errorf("making the layer: %w", err)
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.Append(base, mutate.Addendum{Layer: layer, History: v1.History{
		Created: v1.Time{Time: o.created}, CreatedBy: "internal/image", Comment: "the program and CA certificates",
	}})
	if err != nil {
		return nil, fmt.Errorf("making the image: %w", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("making the image: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", p.arch, v1.Time{Time: o.created}
	config.Config = v1.Config{
		Entrypoint: []string{"/" + programPath}, User: user, WorkingDir: "/",
		Labels: map[string]string{
			"org.opencontainers.image.title":   "gl-k8s-integrator",
			"org.opencontainers.image.version": o.version,
		},
	}
	return mutate.ConfigFile(image, config)
}

// root returns the tar of what is in the image.
func root(program, cas []byte, created time.Time) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, dir := range []string{"etc/", "etc/ssl/", "etc/ssl/certs/"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: created}); err != nil {
			return nil, fmt.Errorf("making the layer: %w", err)
		}
	}
	for _, f := range []struct {
		name    string
		mode    int64
		content []byte
	}{{caPath, 0o444, cas}, {programPath, 0o555, program}} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.content)), ModTime: created}); err != nil {
			return nil, fmt.Errorf("making the layer: %w", err)
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, fmt.Errorf("making the layer: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("making the layer: %w", err)
	}
	return out.Bytes(), nil
}

// certificates returns Mozilla's list of CAs as PEM, of the version that go.mod fixes. Those that are trusted under a
// condition, which a file can't state, are left out.
func certificates() []byte {
	var out bytes.Buffer
	for r := range bundle.Roots() {
		if r.Constraint == nil {
			out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate}))
		}
	}
	return out.Bytes()
}

// pack writes a folder as a tar, in the order of the names and with nothing of the machine in it.
func pack(folder, path string, created time.Time) (err error) {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return fmt.Errorf("writing the archive: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("writing the archive: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	w := tar.NewWriter(file)
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || name == ".":
			return err
		case d.IsDir():
			return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: created})
		}
		content, err := root.ReadFile(name)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: created}); err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	})
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return fmt.Errorf("writing the archive: %w", err)
	}
	return nil
}
