import torch

from vcm.nets.autoencoder import LatentAutoencoder
from vcm.nets.denoiser import LatentDenoiser
from vcm.nets.patches import from_patches, to_patches


def test_patches_go_and_come_back():
    x = torch.arange(2 * 3 * 4 * 6 * 8.0).reshape(2, 3, 4, 6, 8)
    assert to_patches(x, 2).shape == (2, 24, 2, 3, 4)
    assert to_patches(x, 2)[0, 1 * 8 + 4, 1, 2, 3] == x[0, 1, 3, 4, 6]
    assert torch.equal(from_patches(to_patches(x, 2), 2), x)


def test_standardised_latents_come_back_and_survive_saving(tmp_path):
    torch.manual_seed(0)
    net = LatentAutoencoder((8, 8, 16), 4, groups=4, latent_shape=(2, 3, 2)).eval()
    net.latent_mean.normal_()
    net.latent_std.uniform_(1, 2)
    image = torch.rand(1, 1, 16, 24, 16)
    mu, sigma = net.encode(image)
    raw, raw_sigma = net.posterior(image)
    torch.testing.assert_close(net.unstandardise(mu), raw)
    torch.testing.assert_close(sigma * net.latent_std[:, None, None, None], raw_sigma)
    net.save_pretrained(tmp_path)
    again = LatentAutoencoder.from_pretrained(tmp_path)
    torch.testing.assert_close(again.encode(image)[0], mu)
    assert again.decode(mu).shape == image.shape


def test_decoding_in_slabs_gives_the_same_volume():
    torch.manual_seed(0)
    net = LatentAutoencoder((8, 8, 16), 4, groups=4, latent_shape=(3, 2, 2)).eval()
    torch.nn.init.normal_(net.net.decoder.blocks[-1].conv.weight, std=0.05)
    z = torch.randn(1, 4, 3, 2, 2)
    with torch.inference_mode():
        plain = net.decode_raw(z)
        net.enable_tiling(5, storage_dtype=None)
        torch.testing.assert_close(net.decode_raw(z), plain, atol=1e-5, rtol=1e-5)
    assert plain.std() > 0.1


def test_epsilon_is_the_exact_conversion_of_v():
    """z_t = alpha x + sigma e and v = alpha e - sigma x give e = alpha v + sigma z_t."""
    net = LatentDenoiser(4, channels=(16, 16), head_channels=(0, 16)).eval()
    t = torch.tensor([3, 700])
    x, e = torch.randn(2, 2, 4, 4, 4, 4)
    alpha, sigma = net.alpha_sigma(t, x)
    z_t = alpha * x + sigma * e
    v = alpha * e - sigma * x
    torch.testing.assert_close(net.to_model_output(v, z_t, t), e, atol=1e-5, rtol=1e-5)
