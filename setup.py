"Packaging: everything about the package is read from `settings.ini`; the version is the one nbdev keeps in `__init__.py`"
import re
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=['='])
ini.read(here/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
lib = cfg['lib_name']
extras = {k.removesuffix('_requirements'): cfg[k].split() for k in cfg if k.endswith('_requirements')}
extras['dev'] = sum(extras.values(), [])          # who develops needs all of them
version = re.search(r'__version__ = "(.+)"', (here/lib/'__init__.py').read_text(encoding='utf-8')).group(1)

setup(
    version=version, description=cfg['description'], author=cfg['author'], license=cfg['license'],
    keywords=cfg['keywords'].split(), python_requires='>=' + cfg['min_python'],
    long_description=(here/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    packages=[lib], package_data={lib: ['assets/*']},
    install_requires=cfg['requirements'].split(),
    extras_require=extras,
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': [f'{lib} = {lib}._modidx:d']},
)
